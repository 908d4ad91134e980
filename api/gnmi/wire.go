package gnmi

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Field numbers of gnmi.proto.
const (
	responseUpdate = 1

	notificationTimestamp = 1
	notificationPrefix    = 2
	notificationUpdate    = 4
	notificationDelete    = 5
	notificationAtomic    = 6

	pathOrigin = 2
	pathElem   = 3
	pathTarget = 4

	elemName = 1
	elemKey  = 2

	entryKey   = 1 // of any map
	entryValue = 2

	updatePath       = 1
	updateVal        = 3
	updateDuplicates = 4

	valueString   = 1
	valueInt      = 2
	valueUint     = 3
	valueBool     = 4
	valueBytes    = 5
	valueJSON     = 10
	valueJSONIETF = 11
)

// appendResponse appends the bytes of a SubscribeResponse with the given updates
// of n, and its deletes, in the encoding and with the target and origin of k;
// duplicates is how many values of theirs were not sent before. Text that is not
// UTF-8, which protobuf and JSON have no form for, is mended.
//
// A device tells of each drop this way: written straight away it takes a fifth of
// the time of a message that is made and then marshalled.
func appendResponse(b []byte, schema *yang.Node, n *gnmipb.Notification, updates []*gnmipb.Update, k frameKey, duplicates uint32) []byte {
	prefix := n.GetPrefix().GetElem()
	return appendNotification(b, n.GetTimestamp(), prefix, n.GetAtomic(), k, func(b []byte) []byte {
		b = appendUpdates(b, walk(schema, prefix), updates, k.encoding, duplicates)
		for _, d := range n.GetDelete() {
			b = appendNested(b, notificationDelete, func(b []byte) []byte { return appendElems(b, d.GetElem()) })
		}
		return b
	})
}

// appendPacked is appendResponse of all of an event that is packed. It decodes
// values at most, one by one, and no paths, which are most of it.
func appendPacked(b []byte, schema *yang.Node, it *item, k frameKey, duplicates uint32) []byte {
	return appendNotification(b, it.at, it.prefix, it.atomic, k, func(b []byte) []byte {
		if k.encoding == gnmipb.Encoding_PROTO && duplicates == 0 {
			return append(b, it.packed...)
		}
		base := walk(schema, it.prefix)
		for field, rest := cutField(it.packed); field != nil; field, rest = cutField(rest) {
			path, more := cutField(within(field))
			val, _ := cutField(more)
			b = appendNested(b, notificationUpdate, func(b []byte) []byte {
				b = append(b, path...)
				b = appendNested(b, updateVal, func(b []byte) []byte {
					if k.encoding == gnmipb.Encoding_PROTO {
						return append(b, within(val)...)
					}
					v := &gnmipb.TypedValue{}
					if err := proto.Unmarshal(within(val), v); err != nil {
						panic(fmt.Sprintf("gnmi target: a value that was encoded cannot be decoded: %v", err))
					}
					return appendJSONValue(b, walkPacked(base, within(path)), v, k.encoding)
				})
				return appendNumber(b, updateDuplicates, uint64(duplicates))
			})
		}
		return b
	})
}

// cutField cuts the first field off; nil when there is none. The bytes are those
// that the functions here wrote.
func cutField(b []byte) (field, rest []byte) {
	if len(b) == 0 {
		return nil, nil
	}
	_, _, n := protowire.ConsumeField(b)
	return b[:n], b[n:]
}

// within returns what a nested field holds.
func within(field []byte) []byte {
	_, _, n := protowire.ConsumeTag(field)
	in, _ := protowire.ConsumeBytes(field[n:])
	return in
}

// walkPacked is walk along a path as appendElems writes it.
func walkPacked(n *yang.Node, path []byte) *yang.Node {
	for elem, rest := cutField(path); elem != nil && n != nil; elem, rest = cutField(rest) {
		name, _ := cutField(within(elem))
		n = n.Child(string(within(name)))
	}
	return n
}

// packedPath reads the paths of packed updates, one after the other: since they
// differ little, what the one before had is mostly what is there.
type packedPath struct{ elems []*gnmipb.PathElem }

// below returns the path of an update below the first n elements, which stay as
// they are. It holds until the next call.
func (p *packedPath) below(n int, update []byte) []*gnmipb.PathElem {
	path, _ := cutField(update)
	elems := p.elems
	for elem, rest := cutField(within(path)); elem != nil; elem, rest = cutField(rest) {
		if n == len(elems) {
			elems = append(elems, &gnmipb.PathElem{})
		}
		e := elems[n]
		name, keys := cutField(within(elem))
		if e.Name != string(within(name)) {
			e.Name = string(within(name))
		}
		many := 0
		for entry, rest := cutField(keys); entry != nil; entry, rest = cutField(rest) {
			key, value := cutField(within(entry))
			k, v := within(key), within(value)
			if have, ok := e.Key[string(k)]; !ok || have != string(v) {
				if e.Key == nil {
					e.Key = map[string]string{}
				}
				e.Key[string(k)] = string(v)
			}
			many++
		}
		if many != len(e.Key) { // some are those of the one before
			clear(e.Key)
			for entry, rest := cutField(keys); entry != nil; entry, rest = cutField(rest) {
				key, value := cutField(within(entry))
				e.Key[string(within(key))] = string(within(value))
			}
		}
		n++
	}
	p.elems = elems
	return elems[:n]
}

// appendNotification appends a SubscribeResponse with a notification whose updates
// and deletes fill appends.
func appendNotification(b []byte, at int64, prefix []*gnmipb.PathElem, atomic bool, k frameKey, fill func([]byte) []byte) []byte {
	return appendNested(b, responseUpdate, func(b []byte) []byte {
		b = appendNumber(b, notificationTimestamp, uint64(at))
		b = appendNested(b, notificationPrefix, func(b []byte) []byte {
			b = appendText(b, pathOrigin, k.origin)
			b = appendElems(b, prefix)
			return appendText(b, pathTarget, k.target)
		})
		return appendNumber(fill(b), notificationAtomic, protowire.EncodeBool(atomic))
	})
}

// appendUpdates appends the updates of a notification whose container is base in
// the schema; for PROTO it may be nil.
func appendUpdates(b []byte, base *yang.Node, updates []*gnmipb.Update, e gnmipb.Encoding, duplicates uint32) []byte {
	for _, u := range updates {
		b = appendNested(b, notificationUpdate, func(b []byte) []byte {
			path := u.GetPath().GetElem()
			b = appendNested(b, updatePath, func(b []byte) []byte { return appendElems(b, path) })
			b = appendNested(b, updateVal, func(b []byte) []byte {
				if e == gnmipb.Encoding_PROTO {
					return appendNative(b, u.GetVal())
				}
				return appendJSONValue(b, walk(base, path), u.GetVal(), e)
			})
			return appendNumber(b, updateDuplicates, uint64(duplicates))
		})
	}
	return b
}

// appendNested appends a field that holds what fill appends. Its length, which
// goes before it, takes one byte most of the time; otherwise it is moved.
func appendNested(b []byte, field protowire.Number, fill func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	begin := len(b) + 1
	b = fill(append(b, 0))
	n := len(b) - begin
	if size := protowire.SizeVarint(uint64(n)); size > 1 {
		b = append(b, make([]byte, size-1)...)
		copy(b[begin+size-1:], b[begin:begin+n])
	}
	protowire.AppendVarint(b[:begin-1], uint64(n))
	return b
}

// appendNumber appends a scalar field; 0 is what it is when it is not there.
func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// appendText appends a string field; empty is what it is when it is not there.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return appendMember(b, field, s)
}

// appendMember appends a string field, also an empty one.
func appendMember(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), mended(s))
}

func mended(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

func appendElems(b []byte, elems []*gnmipb.PathElem) []byte {
	for _, e := range elems {
		b = appendNested(b, pathElem, func(b []byte) []byte {
			b = appendText(b, elemName, e.GetName())
			if len(e.GetKey()) > 1 {
				for _, k := range slices.Sorted(maps.Keys(e.GetKey())) {
					b = appendKey(b, k, e.GetKey()[k])
				}
				return b
			}
			for k, v := range e.GetKey() {
				b = appendKey(b, k, v)
			}
			return b
		})
	}
	return b
}

func appendKey(b []byte, k, v string) []byte {
	return appendNested(b, elemKey, func(b []byte) []byte {
		return appendMember(appendMember(b, entryKey, k), entryValue, v)
	})
}

// appendNative appends the fields of a TypedValue as it is.
func appendNative(b []byte, v *gnmipb.TypedValue) []byte {
	number := func(field protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
	}
	switch x := v.GetValue().(type) {
	case *gnmipb.TypedValue_UintVal:
		return number(valueUint, x.UintVal)
	case *gnmipb.TypedValue_IntVal:
		return number(valueInt, uint64(x.IntVal))
	case *gnmipb.TypedValue_BoolVal:
		return number(valueBool, protowire.EncodeBool(x.BoolVal))
	case *gnmipb.TypedValue_StringVal:
		return appendMember(b, valueString, x.StringVal)
	case *gnmipb.TypedValue_BytesVal:
		return protowire.AppendBytes(protowire.AppendTag(b, valueBytes, protowire.BytesType), x.BytesVal)
	}
	if out, err := (proto.MarshalOptions{}).MarshalAppend(b, v); err == nil {
		return out
	}
	return appendMember(b, valueString, v.String()) // has no form: text in it that is not UTF-8
}

// appendJSONValue appends the fields of a TypedValue that holds the JSON of v, a
// value of the leaf.
func appendJSONValue(b []byte, leaf *yang.Node, v *gnmipb.TypedValue, e gnmipb.Encoding) []byte {
	field := protowire.Number(valueJSON)
	if e == gnmipb.Encoding_JSON_IETF {
		field = valueJSONIETF
	}
	return appendNested(b, field, func(b []byte) []byte { return appendJSON(b, plain(leaf, v, e)) })
}

// appendJSON appends what encoding/json writes of a value that plain or subtree
// made; null for one that JSON has no form for, a NaN.
func appendJSON(b []byte, v any) []byte {
	switch x := v.(type) {
	case uint64:
		return strconv.AppendUint(b, x, 10)
	case int64:
		return strconv.AppendInt(b, x, 10)
	case bool:
		return strconv.AppendBool(b, x)
	case string:
		if plainText(x) {
			return append(append(append(b, '"'), x...), '"')
		}
	}
	return append(b, jsonText(v)...)
}

// plainText reports whether JSON has the text as it stands.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
