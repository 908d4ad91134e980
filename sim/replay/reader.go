package replay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Limits bound what a file may make a [Reader] hold.
type Limits struct {
	Line  int // bytes of one line
	Flows int // of one epoch
	Links int // in all paths of one epoch
	Drops int // lines of one epoch
}

// DefaultLimits are enough for ten million flows on a million links, and keep an
// epoch within some 3 GiB.
func DefaultLimits() Limits {
	return Limits{Line: 64 << 20, Flows: 32 << 20, Links: 256 << 20, Drops: 8 << 20}
}

// LineError is a line that cannot be read.
type LineError struct {
	Line int // from 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }
func (e *LineError) Unwrap() error { return e.Err }

// Reader reads a recording, epoch by epoch. Not safe for concurrent use.
type Reader struct {
	in     *bufio.Reader
	limits Limits
	long   []byte // a line that did not fit into in's buffer
	line   int
	flows  int // lines so far
	scan   scan

	topo      *Topology
	epoch     *Epoch // being read
	agents    map[NodeID]bool
	classes   map[string]string
	truthLine int
	given     int // epochs so far
	err       error
}

// NewReader reads from in; nothing happens before [Reader.Next].
func NewReader(in io.Reader, limits Limits) *Reader {
	return &Reader{in: bufio.NewReaderSize(in, 1<<18), limits: limits, classes: make(map[string]string)}
}

// Read reads a whole recording with the default limits. Errors are a *LineError, or
// in's own.
func Read(in io.Reader) (*Topology, []*Epoch, error) {
	r := NewReader(in, DefaultLimits())
	var all []*Epoch
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.topo, all, nil
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, e)
	}
}

// Topology is the recording's, nil before the first [Reader.Next].
func (r *Reader) Topology() *Topology { return r.topo }

// Next reads the next epoch; io.EOF when there is none left. A file that never names
// one has one. The error is a *LineError, or that of the input; it stays.
func (r *Reader) Next() (*Epoch, error) {
	if r.err != nil {
		return nil, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	r.given++
	return e, nil
}

func (r *Reader) next() (*Epoch, error) {
	for {
		b, err := r.readLine()
		if errors.Is(err, io.EOF) {
			return r.last()
		}
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(b)) == 0 {
			continue
		}
		r.scan.b, r.scan.i = b, 0
		full, err := r.record()
		if err != nil {
			return nil, &LineError{r.line, err}
		}
		if full != nil {
			return full, nil
		}
	}
}

// last gives what is left at the end of the file.
func (r *Reader) last() (*Epoch, error) {
	if r.topo == nil {
		return nil, &LineError{r.line + 1, errors.New("the file ends without a topology")}
	}
	if r.epoch == nil && r.given > 0 {
		return nil, io.EOF
	}
	if r.epoch == nil {
		r.open(0, 0)
	}
	if err := r.checkTruth(); err != nil {
		return nil, err
	}
	e := r.epoch
	r.epoch = nil
	return e, nil
}

// open begins an epoch.
func (r *Reader) open(start, end uint64) {
	r.epoch = &Epoch{StartNS: start, EndNS: end, FirstFlow: r.flows}
	r.agents = make(map[NodeID]bool)
}

var recordKinds = []string{"flow", "drop", "instrumented", "epoch", "truth", "topology"}

// record reads one line; it gives an epoch when the line begins the next one.
func (r *Reader) record() (full *Epoch, err error) {
	s := &r.scan
	var have seen
	err = s.object(func(key []byte) error {
		kind, err := s.field(&have, key, recordKinds...)
		if err != nil {
			return err
		}
		if have&(have-1) != 0 {
			return s.errorf("two records in one line")
		}
		if kind == "topology" {
			if r.topo != nil {
				return s.errorf("a second topology")
			}
			return r.topology()
		}
		if r.topo == nil {
			return s.errorf("a %s before the topology, which comes first", kind)
		}
		if kind == "epoch" {
			start, end, err := r.times()
			if err != nil {
				return err
			}
			if r.epoch != nil {
				if err := r.checkTruth(); err != nil {
					return err
				}
				full = r.epoch
			}
			r.open(start, end)
			return nil
		}
		if r.epoch == nil {
			r.open(0, 0)
		}
		switch kind {
		case "flow":
			if err := r.flow(); err != nil {
				return err
			}
			r.flows++
			return nil
		case "drop":
			return r.drop()
		case "instrumented":
			return r.instrumented()
		}
		return r.truth()
	})
	if err == nil && have == 0 {
		err = s.errorf("an empty record: the known ones are %q", recordKinds)
	}
	if err == nil {
		err = s.end()
	}
	return full, err
}

// readLine gives the next line without its end; io.EOF when there is none.
func (r *Reader) readLine() ([]byte, error) {
	b, err := r.in.ReadSlice('\n')
	r.line++
	if errors.Is(err, bufio.ErrBufferFull) {
		r.long = append(r.long[:0], b...)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(r.long) > r.limits.Line {
				return nil, &LineError{r.line, fmt.Errorf("more than %d bytes", r.limits.Line)}
			}
			b, err = r.in.ReadSlice('\n')
			r.long = append(r.long, b...)
		}
		b = r.long
	}
	if len(b) > r.limits.Line {
		return nil, &LineError{r.line, fmt.Errorf("more than %d bytes", r.limits.Line)}
	}
	switch {
	case err == nil || errors.Is(err, io.EOF) && len(b) > 0:
		return b, nil
	case errors.Is(err, io.EOF):
		r.line--
		return nil, io.EOF
	}
	return nil, fmt.Errorf("read line %d: %w", r.line, err)
}
