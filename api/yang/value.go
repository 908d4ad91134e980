package yang

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
)

// leaf is one leaf of a state container: how to read it from a record and how
// to put it back. Exactly one pair of get and set is there, by typ.
type leaf[T any] struct {
	name   string
	path   *gnmipb.Path // relative to the state container; shared, never changed
	typ    Type
	always bool          // sent even when zero; else zero means not known and is left out
	absent func(*T) bool // says whether to leave it out; nil is by always

	getUint    func(*T) uint64
	setUint    func(*T, uint64)
	max        uint64 // largest value; 0 means the type's own
	getString  func(*T) string
	setString  func(*T, string) error
	getBytes   func(*T) []byte
	setBytes   func(*T, []byte) error
	getStrings func(*T) []string
	setStrings func(*T, []string) error
	getBool    func(*T) bool
	setBool    func(*T, bool)
}

// within completes a table of leaves: sub is the container within the state
// container that they lie in, "" for the state container itself.
func within[T any](sub string, table []leaf[T]) []leaf[T] {
	for i := range table {
		p := &gnmipb.Path{}
		if sub != "" {
			p.Elem = append(p.Elem, &gnmipb.PathElem{Name: sub})
		}
		p.Elem = append(p.Elem, &gnmipb.PathElem{Name: table[i].name})
		table[i].path = p
	}
	return table
}

// value returns the leaf's value in its native (PROTO) encoding, or nil when
// it is not known.
func (l *leaf[T]) value(rec *T) *gnmipb.TypedValue {
	if l.absent != nil && l.absent(rec) {
		return nil
	}
	switch l.typ {
	case Uint, Uint64:
		v := l.getUint(rec)
		if v == 0 && !l.always {
			return nil
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_UintVal{UintVal: v}}
	case String:
		v := l.getString(rec)
		if v == "" && !l.always {
			return nil
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: v}}
	case Binary:
		v := l.getBytes(rec)
		if len(v) == 0 {
			return nil
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BytesVal{BytesVal: v}}
	case Strings:
		v := l.getStrings(rec)
		if len(v) == 0 {
			return nil
		}
		arr := &gnmipb.ScalarArray{}
		for _, s := range v {
			arr.Element = append(arr.Element, &gnmipb.TypedValue{Value: &gnmipb.TypedValue_StringVal{StringVal: s}})
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_LeaflistVal{LeaflistVal: arr}}
	case Bool:
		v := l.getBool(rec)
		if !v && !l.always {
			return nil
		}
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_BoolVal{BoolVal: v}}
	}
	return nil
}

// Native returns a value of any encoding as the native one of a type, which it
// must fit: the smallest and largest number and the form of a text are for the
// model to check.
func Native(typ Type, v *gnmipb.TypedValue) (*gnmipb.TypedValue, error) {
	type box struct {
		u    uint64
		s    string
		b    []byte
		list []string
		flag bool
	}
	l := &leaf[box]{
		typ: typ, always: true,
		getUint: func(x *box) uint64 { return x.u }, setUint: func(x *box, v uint64) { x.u = v },
		getString: func(x *box) string { return x.s }, setString: func(x *box, v string) error { x.s = v; return nil },
		getBytes: func(x *box) []byte { return x.b }, setBytes: func(x *box, v []byte) error { x.b = v; return nil },
		getStrings: func(x *box) []string { return x.list }, setStrings: func(x *box, v []string) error { x.list = v; return nil },
		getBool: func(x *box) bool { return x.flag }, setBool: func(x *box, v bool) { x.flag = v },
	}
	var x box
	if err := l.set(&x, v); err != nil {
		return nil, err
	}
	return l.value(&x), nil
}

// set puts a value of any encoding into the record.
func (l *leaf[T]) set(rec *T, v *gnmipb.TypedValue) error {
	switch l.typ {
	case Uint, Uint64:
		u, err := uintOf(v)
		if err != nil {
			return err
		}
		limit := l.max
		if limit == 0 && l.typ == Uint {
			limit = 1<<32 - 1
		}
		if limit != 0 && u > limit {
			return fmt.Errorf("%d is more than %d", u, limit)
		}
		l.setUint(rec, u)
		return nil
	case String:
		s, err := stringOf(v)
		if err != nil {
			return err
		}
		return l.setString(rec, s)
	case Binary:
		b, err := bytesOf(v)
		if err != nil {
			return err
		}
		return l.setBytes(rec, b)
	case Strings:
		s, err := stringsOf(v)
		if err != nil {
			return err
		}
		return l.setStrings(rec, s)
	case Bool:
		b, err := boolOf(v)
		if err != nil {
			return err
		}
		l.setBool(rec, b)
		return nil
	}
	return fmt.Errorf("leaf %s has no type", l.name)
}

// jsonOf returns the JSON text of a value in either JSON encoding.
func jsonOf(v *gnmipb.TypedValue) ([]byte, bool) {
	switch x := v.GetValue().(type) {
	case *gnmipb.TypedValue_JsonVal:
		return x.JsonVal, true
	case *gnmipb.TypedValue_JsonIetfVal:
		return x.JsonIetfVal, true
	}
	return nil, false
}

func uintOf(v *gnmipb.TypedValue) (uint64, error) {
	switch x := v.GetValue().(type) {
	case *gnmipb.TypedValue_UintVal:
		return x.UintVal, nil
	case *gnmipb.TypedValue_IntVal:
		if x.IntVal < 0 {
			return 0, fmt.Errorf("%d is negative", x.IntVal)
		}
		return uint64(x.IntVal), nil
	case *gnmipb.TypedValue_StringVal:
		return strconv.ParseUint(x.StringVal, 10, 64)
	case *gnmipb.TypedValue_AsciiVal:
		return strconv.ParseUint(x.AsciiVal, 10, 64)
	}
	if b, ok := jsonOf(v); ok {
		// A number, or by RFC 7951 section 6.1 a string with one in it. Not by
		// way of float64: 2^53 is less than a boot id.
		b = bytes.TrimSpace(b)
		if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
			b = b[1 : len(b)-1]
		}
		return strconv.ParseUint(string(b), 10, 64)
	}
	return 0, fmt.Errorf("%T is no unsigned integer", v.GetValue())
}

func stringOf(v *gnmipb.TypedValue) (string, error) {
	switch x := v.GetValue().(type) {
	case *gnmipb.TypedValue_StringVal:
		return x.StringVal, nil
	case *gnmipb.TypedValue_AsciiVal:
		return x.AsciiVal, nil
	}
	if b, ok := jsonOf(v); ok {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return "", err
		}
		return s, nil
	}
	return "", fmt.Errorf("%T is no string", v.GetValue())
}

func boolOf(v *gnmipb.TypedValue) (bool, error) {
	if x, ok := v.GetValue().(*gnmipb.TypedValue_BoolVal); ok {
		return x.BoolVal, nil
	}
	if b, ok := jsonOf(v); ok {
		var out bool
		if err := json.Unmarshal(b, &out); err != nil {
			return false, err
		}
		return out, nil
	}
	return false, fmt.Errorf("%T is neither true nor false", v.GetValue())
}

func bytesOf(v *gnmipb.TypedValue) ([]byte, error) {
	if x, ok := v.GetValue().(*gnmipb.TypedValue_BytesVal); ok {
		return x.BytesVal, nil
	}
	s, err := stringOf(v)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(s)
}

func stringsOf(v *gnmipb.TypedValue) ([]string, error) {
	if x, ok := v.GetValue().(*gnmipb.TypedValue_LeaflistVal); ok {
		var out []string
		for _, e := range x.LeaflistVal.GetElement() {
			s, err := stringOf(e)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
		return out, nil
	}
	if b, ok := jsonOf(v); ok {
		var out []string
		if err := json.Unmarshal(b, &out); err != nil {
			return nil, err
		}
		return out, nil
	}
	return nil, fmt.Errorf("%T is no list of strings", v.GetValue())
}
