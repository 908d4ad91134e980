package gnmi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Settings is what clients set. The engine checks paths and types and works out
// what a Set leaves; whether that makes sense, and what it does, is for Settings
// to say.
type Settings interface {
	// Edit hands what is set at present to change and puts what that returns,
	// sorted by path, in its place: all of it, kept and in force when Edit
	// returns, or nothing. No other Edit runs in between. Errors of change are
	// returned as they are; other errors are gRPC statuses.
	Edit(ctx context.Context, change func(now []Leaf) ([]Leaf, error)) error
}

// maxSettings bounds the leaves that are set.
const maxSettings = 16384

// tree is what is set while a Set is worked out: leaves by path.
type tree struct {
	schema *yang.Node
	models []*gnmipb.ModelData
	leaves map[string]Leaf
}

func newTree(schema *yang.Node, models []*gnmipb.ModelData, leaves []Leaf) *tree {
	t := &tree{schema: schema, models: models, leaves: make(map[string]Leaf, len(leaves))}
	for _, l := range leaves {
		t.leaves[show(l.Path)] = l
	}
	return t
}

// list returns the leaves by path.
func (t *tree) list() []Leaf {
	out := make([]Leaf, 0, len(t.leaves))
	for _, name := range sortedKeys(t.leaves) {
		out = append(out, t.leaves[name])
	}
	return out
}

// remove takes out what the pattern covers. That there is nothing is no error
// (gNMI specification, section 3.4.6).
func (t *tree) remove(elems []*gnmipb.PathElem) {
	for name, l := range t.leaves {
		if reach(elems, l.Path) >= 0 {
			delete(t.leaves, name)
		}
	}
}

// merge puts a value at a path without wildcards, which is in the schema.
func (t *tree) merge(path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
	switch v.GetValue().(type) {
	case nil:
		return status.Errorf(codes.InvalidArgument, "path %s: no value", show(path))
	case *gnmipb.TypedValue_AsciiVal, *gnmipb.TypedValue_AnyVal, *gnmipb.TypedValue_ProtoBytes:
		return status.Errorf(codes.Unimplemented, "path %s: a value of type %T is not supported: give JSON_IETF, JSON or the leaf's own type", show(path), v.GetValue())
	}
	node := walk(t.schema, path)
	if node.Leaf() {
		return t.put(node, path, v)
	}
	text := v.GetJsonIetfVal()
	if text == nil {
		text = v.GetJsonVal()
	}
	if text == nil {
		return status.Errorf(codes.InvalidArgument, "path %s is no leaf: give its value as JSON", show(path))
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	var members map[string]json.RawMessage
	if err := dec.Decode(&members); err != nil || members == nil || dec.More() {
		return status.Errorf(codes.InvalidArgument, "path %s: want a JSON object: %v", show(path), err)
	}
	return t.object(node, path, members)
}

// object puts the members of a container or list entry.
func (t *tree) object(node *yang.Node, path []*gnmipb.PathElem, members map[string]json.RawMessage) error {
	if err := t.entry(path); err != nil {
		return err
	}
	for _, name := range sortedKeys(members) {
		text := members[name]
		bare := name
		if m, rest, ok := strings.Cut(name, ":"); ok && known(m, t.models) {
			bare = rest
		}
		child := node.Child(bare)
		at := append(path[:len(path):len(path)], &gnmipb.PathElem{Name: bare})
		switch {
		case child == nil:
			return status.Errorf(codes.InvalidArgument, "path %s: no model has %s", show(path), show(at))
		case !child.Writable:
			return readOnly(at)
		case node.HasKey(bare):
			if err := t.sameKey(child, path, bare, text); err != nil {
				return err
			}
		case child.Leaf():
			v := &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: text}}
			if err := t.put(child, at, v); err != nil {
				return err
			}
		case len(child.Keys) > 0:
			var list []map[string]json.RawMessage
			if err := json.Unmarshal(text, &list); err != nil {
				return status.Errorf(codes.InvalidArgument, "path %s: want a JSON array of objects: %v", show(at), err)
			}
			for _, entry := range list {
				if err := t.listEntry(child, at, entry); err != nil {
					return err
				}
			}
		default:
			var sub map[string]json.RawMessage
			if err := json.Unmarshal(text, &sub); err != nil || sub == nil {
				return status.Errorf(codes.InvalidArgument, "path %s: want a JSON object: %v", show(at), err)
			}
			if err := t.object(child, at, sub); err != nil {
				return err
			}
		}
	}
	return nil
}

// listEntry puts one entry of a list; at is the list's path without keys.
func (t *tree) listEntry(list *yang.Node, at []*gnmipb.PathElem, members map[string]json.RawMessage) error {
	keys := map[string]string{}
	for _, k := range list.Keys {
		text, ok := members[k]
		for _, m := range t.models {
			if !ok {
				text, ok = members[m.GetName()+":"+k]
			}
		}
		if !ok {
			return status.Errorf(codes.InvalidArgument, "path %s: an entry without its key %s", show(at), k)
		}
		s, err := keyText(list.Child(k), text)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "path %s: key %s: %v", show(at), k, err)
		}
		keys[k] = s
	}
	last := len(at) - 1
	path := append(at[:last:last], &gnmipb.PathElem{Name: at[last].Name, Key: keys})
	return t.object(list, path, members)
}

// keyText writes a key's value as paths do.
func keyText(key *yang.Node, text json.RawMessage) (string, error) {
	v, err := yang.Native(key.Type, &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: text}})
	if err != nil {
		return "", err
	}
	if _, ok := v.GetValue().(*gnmipb.TypedValue_StringVal); ok {
		if v.GetStringVal() == "" {
			return "", fmt.Errorf("it is empty")
		}
		return v.GetStringVal(), nil
	}
	return fmt.Sprint(v.GetUintVal()), nil
}

// sameKey holds the key leaf of an entry against the entry's path.
func (t *tree) sameKey(key *yang.Node, entry []*gnmipb.PathElem, name string, text json.RawMessage) error {
	s, err := keyText(key, text)
	if want := entry[len(entry)-1].Key[name]; err != nil || s != want {
		return status.Errorf(codes.InvalidArgument, "path %s: %s is %s, not that of the path", show(entry), name, text)
	}
	return nil
}

// put sets a leaf.
func (t *tree) put(leaf *yang.Node, path []*gnmipb.PathElem, v *gnmipb.TypedValue) error {
	native, err := yang.Native(leaf.Type, v)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "path %s: %v", show(path), err)
	}
	if native == nil {
		return status.Errorf(codes.InvalidArgument, "path %s: an empty value: delete the leaf instead", show(path))
	}
	if err := t.entry(path[:len(path)-1]); err != nil {
		return err
	}
	parent := walk(t.schema, path[:len(path)-1])
	if n := len(path); n >= 2 && parent.HasKey(leaf.Name) {
		// The key of an entry, which refers to the one in its config.
		if want := path[n-2].Key[leaf.Name]; keyString(native) != want {
			return status.Errorf(codes.InvalidArgument, "path %s: %s is not the key of the path", show(path), keyString(native))
		}
		return nil
	}
	if n := len(path); n >= 3 {
		if want, ok := path[n-3].Key[leaf.Name]; ok && path[n-2].Name == "config" && keyString(native) != want {
			return status.Errorf(codes.InvalidArgument, "path %s: %s is not the key of the path", show(path), keyString(native))
		}
	}
	t.leaves[show(path)] = Leaf{path, native}
	return nil
}

func keyString(v *gnmipb.TypedValue) string {
	if s, ok := v.GetValue().(*gnmipb.TypedValue_StringVal); ok {
		return s.StringVal
	}
	return fmt.Sprint(v.GetUintVal())
}

// entry makes the list entries on the way to path, if they are not there yet: an
// entry is its key, in its config container (OpenConfig's style guide).
func (t *tree) entry(path []*gnmipb.PathElem) error {
	node := t.schema
	for i, e := range path {
		node = node.Child(e.Name)
		config := node.Child("config")
		for _, k := range node.Keys {
			leaf := config.Child(k)
			v, err := yang.Native(leaf.Type, keyValue(leaf, e.Key[k]))
			if err != nil || v == nil {
				return status.Errorf(codes.InvalidArgument, "path %s: key %s: %v", show(path[:i+1]), k, err)
			}
			at := append(path[:i+1:i+1], &gnmipb.PathElem{Name: "config"}, &gnmipb.PathElem{Name: k})
			t.leaves[show(at)] = Leaf{at, v}
		}
	}
	return nil
}

// whole puts the key back into entries that still have something else: an entry
// goes when it goes as a whole.
func (t *tree) whole() error {
	for _, l := range t.list() {
		if err := t.entry(l.Path[:len(l.Path)-1]); err != nil {
			return err
		}
	}
	return nil
}

func readOnly(path []*gnmipb.PathElem) error {
	return status.Errorf(codes.InvalidArgument, "path %s is state: it cannot be set", show(path))
}

// MarshalTree writes leaves as one JSON object by RFC 7951.
func MarshalTree(schema *yang.Node, leaves []Leaf) ([]byte, error) {
	return json.MarshalIndent(subtree(schema, 0, leaves, gnmipb.Encoding_JSON_IETF), "", "  ")
}

// UnmarshalTree reads what MarshalTree wrote, or a person: only what can be set.
// It returns the leaves sorted by path.
func UnmarshalTree(schema *yang.Node, models []*gnmipb.ModelData, text []byte) ([]Leaf, error) {
	t := newTree(schema, models, nil)
	if err := t.merge(nil, &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: text}}); err != nil {
		return nil, fmt.Errorf("%s", status.Convert(err).Message())
	}
	return t.list(), nil
}

// Notifications returns leaves, sorted by path, as Deps.State has them: one
// notification for each container.
func Notifications(leaves []Leaf, now time.Time) []*gnmipb.Notification {
	var out []*gnmipb.Notification
	by := map[string]*gnmipb.Notification{}
	for _, l := range leaves {
		last := len(l.Path) - 1
		at := show(l.Path[:last])
		n := by[at]
		if n == nil {
			n = &gnmipb.Notification{Timestamp: now.UnixNano(), Prefix: &gnmipb.Path{Elem: l.Path[:last:last]}}
			by[at] = n
			out = append(out, n)
		}
		n.Update = append(n.Update, &gnmipb.Update{Path: &gnmipb.Path{Elem: l.Path[last:]}, Val: l.Val})
	}
	return out
}
