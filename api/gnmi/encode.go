package gnmi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"decaf/api/yang"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// encodings are those the target speaks. JSON is gNMI's default and a must
// (gNMI specification, section 2.3).
var encodings = []gnmipb.Encoding{gnmipb.Encoding_JSON, gnmipb.Encoding_JSON_IETF, gnmipb.Encoding_PROTO}

func checkEncoding(e gnmipb.Encoding) error {
	for _, have := range encodings {
		if e == have {
			return nil
		}
	}
	return status.Errorf(codes.Unimplemented, "encoding %s is not supported: ask for JSON, JSON_IETF or PROTO", e)
}

// walk returns the schema node at a path without wildcards, or nil.
func walk(n *yang.Node, path []*gnmipb.PathElem) *yang.Node {
	for _, e := range path {
		if n == nil {
			return nil
		}
		n = n.Child(e.GetName())
	}
	return n
}

// jsonValue wraps what plain or a tree made.
func jsonValue(v any, e gnmipb.Encoding) *gnmipb.TypedValue {
	text := jsonText(v)
	if e == gnmipb.Encoding_JSON_IETF {
		return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonIetfVal{JsonIetfVal: text}}
	}
	return &gnmipb.TypedValue{Value: &gnmipb.TypedValue_JsonVal{JsonVal: text}}
}

// jsonText is the JSON of what plain or a tree made; null for what JSON has no
// form for: a NaN.
func jsonText(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(v) != nil {
		return []byte("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// plain turns a native value into what encoding/json writes as its JSON.
// JSON_IETF has 64-bit integers as strings (RFC 7951, section 6.1), so the
// leaf's schema node matters; nil is one not known.
func plain(leaf *yang.Node, v *gnmipb.TypedValue, e gnmipb.Encoding) any {
	wide := e == gnmipb.Encoding_JSON_IETF && leaf != nil && leaf.Type == yang.Uint64
	switch x := v.GetValue().(type) {
	case *gnmipb.TypedValue_UintVal:
		if wide {
			return strconv.FormatUint(x.UintVal, 10)
		}
		return x.UintVal
	case *gnmipb.TypedValue_IntVal:
		if wide {
			return strconv.FormatInt(x.IntVal, 10)
		}
		return x.IntVal
	case *gnmipb.TypedValue_StringVal:
		return strings.ToValidUTF8(x.StringVal, "\ufffd")
	case *gnmipb.TypedValue_BoolVal:
		return x.BoolVal
	case *gnmipb.TypedValue_DoubleVal:
		return x.DoubleVal
	case *gnmipb.TypedValue_BytesVal:
		return base64.StdEncoding.EncodeToString(x.BytesVal)
	case *gnmipb.TypedValue_LeaflistVal:
		out := make([]any, 0, len(x.LeaflistVal.GetElement()))
		for _, el := range x.LeaflistVal.GetElement() {
			out = append(out, plain(leaf, el, e))
		}
		return out
	}
	return fmt.Sprint(v.GetValue())
}
