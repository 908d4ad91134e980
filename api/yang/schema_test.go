package yang

import (
	"slices"
	"testing"

	"github.com/openconfig/goyang/pkg/yang"
)

// TestSchemaIsTheModule holds the tree in code against the YANG module, both
// ways: names, keys and types.
func TestSchemaIsTheModule(t *testing.T) {
	ms := yang.NewModules()
	if err := ms.Parse(Text(), Module+".yang"); err != nil {
		t.Fatal(err)
	}
	if errs := ms.Process(); len(errs) > 0 {
		t.Fatal(errs)
	}
	entry, errs := ms.GetModule(Module)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	compare(t, "/loss", Schema().Child("loss"), entry.Dir["loss"])
}

func compare(t *testing.T, path string, n *Node, e *yang.Entry) {
	t.Helper()
	if got, want := n.Type, typeOf(e); got != want {
		t.Errorf("%s: type %d in code, %d in the module", path, got, want)
	}
	var keys []string
	if e.IsList() {
		keys = []string{e.Key}
	}
	writable := !e.ReadOnly() && (n.Type != Container || slices.ContainsFunc(n.Children, func(c *Node) bool { return c.Writable }))
	if n.Writable != writable {
		t.Errorf("%s: writable is %v in code, %v in the module", path, n.Writable, writable)
	}
	if !slices.Equal(n.Keys, keys) {
		t.Errorf("%s: keys %v in code, %v in the module", path, n.Keys, keys)
	}
	for _, c := range n.Children {
		if sub := e.Dir[c.Name]; sub != nil {
			compare(t, path+"/"+c.Name, c, sub)
		} else {
			t.Errorf("%s/%s is not in the module", path, c.Name)
		}
	}
	for name := range e.Dir {
		if n.Child(name) == nil {
			t.Errorf("%s/%s is not in code", path, name)
		}
	}
}

func typeOf(e *yang.Entry) Type {
	if e.Kind != yang.LeafEntry {
		return Container
	}
	if e.IsLeafList() {
		return Strings
	}
	typ := e.Type
	if typ.Kind == yang.Yleafref { // ../state/x or ../config/x
		return typeOf(e.Parent.Dir["state"].Dir[e.Name])
	}
	switch typ.Kind {
	case yang.Yuint64:
		return Uint64
	case yang.Yuint8, yang.Yuint16, yang.Yuint32:
		return Uint
	case yang.Ybool:
		return Bool
	case yang.Ybinary:
		return Binary
	default:
		return String
	}
}

func TestModel(t *testing.T) {
	m := Model()
	if m.GetName() != "decaf-loss" || m.GetVersion() == "" {
		t.Errorf("model %v", m)
	}
}
