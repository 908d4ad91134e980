package service

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// fromEnvironment overrides the fields of v, a struct, from the variables
// named after them. Maps and lists of structs cannot be set this way.
func fromEnvironment(v reflect.Value, prefix string) error {
	for _, f := range yamlFields(v.Type()) {
		name := prefix + "_" + strings.ToUpper(strings.ReplaceAll(f.key, "-", "_"))
		field := v.FieldByIndex(f.index)
		if s := structOf(field); s.IsValid() {
			if err := pointerStruct(field, name); err != nil {
				return err
			}
			continue
		}
		text, ok := os.LookupEnv(name)
		if !ok {
			continue
		}
		if err := setText(field, text); err != nil {
			return fmt.Errorf("environment variable %s=%q: %w", name, text, err)
		}
	}
	return nil
}

// mistyped finds a variable that sets nothing and is a letter or two away from
// one that would.
func mistyped(t reflect.Type, prefix string) error {
	names := map[string]bool{}
	variables(t, prefix, names)
	for _, entry := range os.Environ() {
		got, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(got, prefix+"_") || names[got] {
			continue
		}
		for _, want := range slices.Sorted(maps.Keys(names)) {
			if n := len(want) - len(prefix); editDistance(got, want) <= min(2, n/4) {
				return fmt.Errorf("environment variable %s sets nothing: did you mean %s?", got, want)
			}
		}
	}
	return nil
}

// variables gathers the names of all variables that could set a part of a struct.
func variables(t reflect.Type, prefix string, names map[string]bool) {
	for _, f := range yamlFields(t) {
		name := prefix + "_" + strings.ToUpper(strings.ReplaceAll(f.key, "-", "_"))
		if s := structOf(reflect.New(f.typ).Elem()); s.IsValid() {
			if f.typ.Kind() == reflect.Pointer {
				variables(f.typ.Elem(), name, names)
			} else {
				variables(f.typ, name, names)
			}
			continue
		}
		names[name] = true
	}
}

// structOf returns what v holds or could hold if that is a struct, else the
// zero Value.
func structOf(v reflect.Value) reflect.Value {
	t := v.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return reflect.Value{} // the latter, like an address, is written as text
	}
	return v
}

// pointerStruct descends into a struct. A nil pointer is made only if a
// variable for something inside it is set, since nil means "not used".
func pointerStruct(field reflect.Value, name string) error {
	if field.Kind() != reflect.Pointer {
		return fromEnvironment(field, name)
	}
	if !field.IsNil() {
		return fromEnvironment(field.Elem(), name)
	}
	made := reflect.New(field.Type().Elem())
	if err := fromEnvironment(made.Elem(), name); err != nil {
		return err
	}
	if !made.Elem().IsZero() {
		field.Set(made)
	}
	return nil
}

func setText(field reflect.Value, text string) error {
	if field.Type() == reflect.TypeFor[time.Duration]() {
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		field.SetInt(int64(d))
		return nil
	}
	switch {
	case field.Kind() == reflect.String:
		field.SetString(text)
		return nil
	case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.String && !strings.HasPrefix(strings.TrimSpace(text), "["):
		out := reflect.MakeSlice(field.Type(), 0, 4)
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = reflect.Append(out, reflect.ValueOf(part).Convert(field.Type().Elem()))
			}
		}
		field.Set(out)
		return nil
	}
	if err := yaml.UnmarshalWithOptions([]byte(text), field.Addr().Interface(), yaml.CustomUnmarshaler(durationFromYAML)); err != nil {
		if _, wrong := mistaken(err); wrong != "" {
			return errors.New(wrong)
		}
		return fmt.Errorf("%s", firstLine(located("value", err).Error()))
	}
	return nil
}
