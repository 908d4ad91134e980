package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// filter is a table of its own in a namespace's packet filter, with one chain and one
// counter. It comes and goes in one step each, so that its rules see a packet all or
// not at all.
type filter struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	last  uint64
	gone  bool
}

// filterTable is the name of a fault's table; a number behind it tells several apart.
const filterTable = "decaf_fault"

const counterName = "packets"

// count is the expression that counts a packet in its filter's counter.
var count = &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counterName}

// newFilter adds a chain of rules at a hook.
func newFilter(s *space, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules [][]expr.Any) (*filter, error) {
	conn, err := openFilter(s)
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	name := filterTable
	for i := 2; slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }); i++ {
		name = fmt.Sprintf("%s_%d", filterTable, i)
	}
	f := &filter{conn: conn}
	f.table = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	conn.AddObj(&nftables.CounterObj{Table: f.table, Name: counterName})
	f.chain = conn.AddChain(&nftables.Chain{
		Name: "fault", Table: f.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority,
	})
	for _, e := range rules {
		conn.AddRule(&nftables.Rule{Table: f.table, Chain: f.chain, Exprs: e})
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("add the packet filter's rules: %w", err)
	}
	return f, nil
}

// openFilter opens the packet filter of a namespace.
func openFilter(s *space) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(s.fd))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// packets reads the counter; after remove, what it was last.
func (f *filter) packets() (uint64, error) {
	if f.gone {
		return f.last, nil
	}
	o, err := f.conn.GetObject(&nftables.CounterObj{Table: f.table, Name: counterName})
	if err != nil {
		return f.last, fmt.Errorf("read the packet filter's counter: %w", err)
	}
	counter, ok := o.(*nftables.CounterObj)
	if !ok {
		return f.last, fmt.Errorf("read the packet filter's counter: the kernel gave %T", o)
	}
	f.last = counter.Packets
	return f.last, nil
}

// remove ends the rules, then reads the counter for the last time, then takes the
// table away.
func (f *filter) remove() error {
	if f.gone {
		return nil
	}
	f.conn.FlushChain(f.chain)
	if err := f.conn.Flush(); err != nil {
		return fmt.Errorf("remove the packet filter's rules: %w", err)
	}
	_, err := f.packets()
	f.conn.DelTable(f.table)
	if e := f.conn.Flush(); e != nil {
		return fmt.Errorf("remove the packet filter's table: %w", e)
	}
	f.gone = true
	return err
}

// choices lists, for packets that match a source, a destination and a port, the
// expressions of one rule each; no packet fits two. Empty lists and port 0 are any.
func choices(src, dst []netip.Prefix, port uint16) [][]expr.Any {
	var all [][]expr.Any
	for _, src := range orAny(src) {
		for _, dst := range orAny(dst) {
			for _, port := range toPort(port) {
				all = append(all, slices.Concat(inPrefix(src, 12), inPrefix(dst, 16), port))
			}
		}
	}
	return all
}

// orAny gives one invalid prefix, any, for an empty list.
func orAny(list []netip.Prefix) []netip.Prefix {
	if len(list) == 0 {
		return []netip.Prefix{{}}
	}
	return list
}

// inPrefix compares the address at an offset of the IPv4 header.
func inPrefix(p netip.Prefix, offset uint32) []expr.Any {
	if !p.IsValid() || p.Bits() == 0 {
		return nil
	}
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// toPort compares the destination port, in one list of expressions for TCP and
// one for UDP; one empty list for any port.
func toPort(port uint16) [][]expr.Any {
	if port == 0 {
		return [][]expr.Any{nil}
	}
	var all [][]expr.Any
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		all = append(all, append(ofProtocol(protocol),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		))
	}
	return all
}

func ofProtocol(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
}

// chance draws 32 random bits for each packet and goes on when they are below the
// rate's threshold; nothing when all are hit.
func (g *target) chance() []expr.Any {
	if g.all {
		return nil
	}
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyPRANDOM, Register: 1}}, below(g.below)...)
}

// below goes on when register 1, a number in the machine's order, is below a limit.
// The comparison is bytewise, so the number is put into network order first.
func below(limit uint32) []expr.Any {
	return []expr.Any{
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(limit)},
	}
}
