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

// aclTable is the name of the table; each fault of a device has one of its own, a
// number behind the name.
const aclTable = "decaf_acl"

// acl drops what a device forwards by a rule of a packet filter, as a wrong access
// list would. The rule counts.
type acl struct {
	conn  *nftables.Conn
	table *nftables.Table
	last  uint64
	gone  bool
}

func (f *Fabric) acl(g *target) (effect, error) {
	below, all, err := g.threshold()
	if err != nil {
		return nil, err
	}
	n, err := f.node(g.device)
	if err != nil {
		return nil, err
	}
	conn, err := openFilter(n.space)
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	name := aclTable
	for i := 2; slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }); i++ {
		name = fmt.Sprintf("%s_%d", aclTable, i)
	}
	a := &acl{conn: conn}
	a.table = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	chain := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: a.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	counter := &nftables.CounterObj{Table: a.table, Name: counterName}
	conn.AddObj(counter)
	// A rule for each choice; no packet fits two, so each is drawn for once.
	for _, src := range orAny(g.src) {
		for _, dst := range orAny(g.dst) {
			for _, port := range toPort(g.port) {
				e := slices.Concat(inPrefix(src, 12), inPrefix(dst, 16), port)
				if !all {
					e = append(e, chance(below)...)
				}
				e = append(e,
					&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter.Name},
					&expr.Verdict{Kind: expr.VerdictDrop},
				)
				conn.AddRule(&nftables.Rule{Table: a.table, Chain: chain, Exprs: e})
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("add the access list: %w", err)
	}
	return a, nil
}

const counterName = "dropped"

// openFilter opens the packet filter of a namespace.
func openFilter(s *space) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(s.fd))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
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
		all = append(all, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		})
	}
	return all
}

// chance draws 32 random bits and goes on when they are below the threshold. The
// comparison is bytewise, so the number is put into network order first.
func chance(below uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRANDOM, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: binaryutil.BigEndian.PutUint32(below)},
	}
}

func (a *acl) read(t *Truth) error {
	if !a.gone {
		if err := a.count(); err != nil {
			return err
		}
	}
	t.Packets = a.last
	return nil
}

func (a *acl) count() error {
	o, err := a.conn.GetObject(&nftables.CounterObj{Table: a.table, Name: counterName})
	if err != nil {
		return fmt.Errorf("read the access list's counter: %w", err)
	}
	counter, ok := o.(*nftables.CounterObj)
	if !ok {
		return fmt.Errorf("read the access list's counter: the kernel gave %T", o)
	}
	a.last = counter.Packets
	return nil
}

func (a *acl) undo() error {
	err := a.count()
	a.conn.DelTable(a.table)
	if e := a.conn.Flush(); e != nil {
		return fmt.Errorf("remove the access list: %w", e)
	}
	a.gone = true
	return err
}
