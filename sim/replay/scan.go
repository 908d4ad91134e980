package replay

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scan reads one line's JSON, token by token, in the shapes the format has and no
// others. It keeps no memory of its own but for strings with escapes.
type scan struct {
	b       []byte
	i       int
	scratch []byte
}

func (s *scan) errorf(format string, args ...any) error {
	return fmt.Errorf("column %d: %s", s.i+1, fmt.Sprintf(format, args...))
}

// space skips white space.
func (s *scan) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// peek is the next byte that is not space, 0 at the end.
func (s *scan) peek() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scan) want(c byte) error {
	if s.peek() != c || s.i == len(s.b) {
		return s.errorf("want %q, got %s", string(c), s.got())
	}
	s.i++
	return nil
}

// got is what stands here, in words.
func (s *scan) got() string {
	if s.i >= len(s.b) {
		return "the end of the line"
	}
	r, _ := utf8.DecodeRune(s.b[s.i:])
	return strconv.Quote(string(r))
}

// end says whether the line has been read to its end.
func (s *scan) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.errorf("want the end of the line, got %s: one record a line", s.got())
	}
	return nil
}

// more steps through the items of an object or array up to its closing mark; the
// opening one has been read. first is true before the first item.
func (s *scan) more(closing byte, first bool) (bool, error) {
	switch c := s.peek(); {
	case c == closing:
		s.i++
		return false, nil
	case first:
		return true, nil
	case c == ',':
		s.i++
		if s.peek() == closing {
			return false, s.errorf("want another item after the comma, got %s", s.got())
		}
		return true, nil
	}
	return false, s.errorf("want \",\" or %q, got %s", string(closing), s.got())
}

// key reads a field's name and the colon behind it.
func (s *scan) key() ([]byte, error) {
	k, err := s.str()
	if err != nil {
		return nil, err
	}
	return k, s.want(':')
}

// str reads a string. The bytes are good until the next one is read.
func (s *scan) str() ([]byte, error) {
	if err := s.want('"'); err != nil {
		return nil, err
	}
	start := s.i
	plain := true
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			out := s.b[start:s.i]
			s.i++
			if !plain && !utf8.Valid(out) {
				return nil, s.errorf("the string is not UTF-8")
			}
			return out, nil
		case c == '\\':
			return s.escaped(start)
		case c < 0x20:
			return nil, s.errorf("a control character in a string")
		case c >= 0x80:
			plain = false
		}
		s.i++
	}
	return nil, s.errorf("the string does not end")
}

// escaped reads on from the first backslash of a string.
func (s *scan) escaped(start int) ([]byte, error) {
	out := append(s.scratch[:0], s.b[start:s.i]...)
	for s.i < len(s.b) {
		c := s.b[s.i]
		s.i++
		switch {
		case c == '"':
			s.scratch = out
			if !utf8.Valid(out) {
				return nil, s.errorf("the string is not UTF-8")
			}
			return out, nil
		case c < 0x20:
			return nil, s.errorf("a control character in a string")
		case c != '\\':
			out = append(out, c)
			continue
		}
		if s.i >= len(s.b) {
			break
		}
		c = s.b[s.i]
		s.i++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, err := s.hex()
			if err != nil {
				return nil, err
			}
			if utf16.IsSurrogate(r) {
				if s.i+1 >= len(s.b) || s.b[s.i] != '\\' || s.b[s.i+1] != 'u' {
					return nil, s.errorf("half a surrogate pair in a string")
				}
				s.i += 2
				low, err := s.hex()
				if err != nil {
					return nil, err
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return nil, s.errorf("half a surrogate pair in a string")
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, s.errorf("no such escape in a string")
		}
	}
	return nil, s.errorf("the string does not end")
}

func (s *scan) hex() (rune, error) {
	if s.i+4 > len(s.b) {
		return 0, s.errorf("the string does not end")
	}
	n, err := strconv.ParseUint(string(s.b[s.i:s.i+4]), 16, 16)
	if err != nil {
		return 0, s.errorf("want four hexadecimal digits")
	}
	s.i += 4
	return rune(n), nil
}

// maxNumber keeps sums of many numbers within 64 bits.
const maxNumber = 1 << 62

// number reads a whole number of 0 or more.
func (s *scan) number() (uint64, error) {
	s.space()
	start, n := s.i, uint64(0)
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		if n >= maxNumber/10 {
			return 0, s.errorf("the number is too large")
		}
		n = n*10 + uint64(s.b[s.i]-'0')
		s.i++
	}
	digits := s.i - start
	if digits == 0 || digits > 1 && s.b[start] == '0' || s.i < len(s.b) && (s.b[s.i] == '.' || s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		s.i = start
		return 0, s.errorf("want a whole number of 0 or more, got %s", s.got())
	}
	return n, nil
}
