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

// filter is a table of its own in a namespace's packet filter, of both versions of the
// Internet Protocol, with one chain and one counter. It comes and goes in one step each, so that its rules see a packet all or
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
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	name := filterTable
	for i := 2; slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }); i++ {
		name = fmt.Sprintf("%s_%d", filterTable, i)
	}
	f := &filter{conn: conn}
	f.table = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
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

// matches lists, for packets that match a source, a destination and a port, the
// expressions of one rule each; no packet fits two. Empty lists and port 0 are any.
func matches(src, dst []netip.Prefix, port uint16) (all [][]expr.Any) {
	for _, c := range choices(src, dst) {
		for _, port := range toPort(port) {
			all = append(all, slices.Concat(c.version(), inPrefix(c.src, source), inPrefix(c.dst, destination), port))
		}
	}
	return all
}

// version compares the IP version of a packet, if the choice is of one.
func (c choice) version() []expr.Any {
	for _, p := range []netip.Prefix{c.src, c.dst} {
		if p.IsValid() {
			return ofVersion(versionOf(p.Addr()))
		}
	}
	return nil
}

func ofVersion(v version) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(v.family())}},
	}
}

// field is where something stands in the IP header, by version.
type field map[version]struct{ offset, length uint32 }

var (
	source      = field{ipv4: {12, 4}, ipv6: {8, 16}}
	destination = field{ipv4: {16, 4}, ipv6: {24, 16}}
	lengthField = field{ipv4: {2, 2}, ipv6: {4, 2}} // of IPv4 with the header, of IPv6 without
	ttl         = field{ipv4: {8, 1}, ipv6: {7, 1}}
)

// load reads a field into a register.
func (f field) load(v version, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f[v].offset, Len: f[v].length}
}

// inPrefix compares an address of a packet of the prefix's version.
func inPrefix(p netip.Prefix, f field) []expr.Any {
	if !p.IsValid() || p.Bits() == 0 {
		return nil
	}
	n := ipNet(p.Masked())
	return []expr.Any{
		f.load(versionOf(p.Addr()), 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(n.Mask)), Mask: n.Mask, Xor: make([]byte, len(n.Mask))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: n.IP},
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
