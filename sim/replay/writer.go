package replay

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// Writer writes a recording. What it wrote a [Reader] reads back equal. Not safe for
// concurrent use.
type Writer struct {
	out    *bufio.Writer
	topo   *Topology
	b      []byte
	flows  int
	epochs int
}

// NewWriter writes to out; [Writer.Flush] at the end.
func NewWriter(out io.Writer) *Writer { return &Writer{out: bufio.NewWriterSize(out, 1<<18)} }

// Write writes a whole recording.
func Write(out io.Writer, t *Topology, epochs ...*Epoch) error {
	w := NewWriter(out)
	if err := w.Topology(t); err != nil {
		return err
	}
	for _, e := range epochs {
		if err := w.Epoch(e); err != nil {
			return err
		}
	}
	return w.Flush()
}

// Flush writes out what is left.
func (w *Writer) Flush() error {
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return nil
}

func (w *Writer) put() error {
	w.b = append(w.b, '\n')
	_, err := w.out.Write(w.b)
	w.b = w.b[:0]
	if err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	return nil
}

func (w *Writer) text(s ...string) {
	for _, x := range s {
		w.b = append(w.b, x...)
	}
}

func (w *Writer) number(n uint64) { w.b = strconv.AppendUint(w.b, n, 10) }

// name writes a string as JSON.
func (w *Writer) name(s string) {
	const hex = "0123456789abcdef"
	w.b = append(w.b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			w.b = append(w.b, '\\', c)
		case c < 0x20:
			w.b = append(w.b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			w.b = append(w.b, c)
		}
	}
	w.b = append(w.b, '"')
}

func (w *Writer) node(n NodeID) { w.name(w.topo.names[n]) }

func (w *Writer) link(l LinkID) {
	w.text("[")
	w.node(w.topo.from[l])
	w.text(",")
	w.node(w.topo.to[l])
	w.text("]")
}

// list writes n items with commas between them.
func (w *Writer) list(n int, item func(i int)) {
	w.text("[")
	for i := range n {
		if i > 0 {
			w.text(",")
		}
		item(i)
	}
	w.text("]")
}

// Topology writes the first line.
func (w *Writer) Topology(t *Topology) error {
	w.topo = t
	w.text(`{"topology":{"links":[`)
	first := true
	for l := LinkID(0); int(l) < len(t.from); l += 2 {
		if t.role[t.to[l]] == roleHost {
			continue
		}
		if !first {
			w.text(",")
		}
		first = false
		w.link(l)
	}
	w.text(`],"hosts":{`)
	first = true
	for n, tor := range t.tor {
		if tor == None {
			continue
		}
		if !first {
			w.text(",")
		}
		first = false
		w.name(t.names[n])
		w.text(":")
		w.node(tor)
	}
	w.text("}}}")
	return w.put()
}

// Epoch writes an epoch of the topology written before.
func (w *Writer) Epoch(e *Epoch) error {
	if w.topo == nil {
		return fmt.Errorf("write recording: the topology comes first")
	}
	if w.epochs > 0 || e.StartNS != 0 || e.EndNS != 0 {
		w.text(`{"epoch":{"start_ns":`)
		w.number(e.StartNS)
		w.text(`,"end_ns":`)
		w.number(e.EndNS)
		w.text("}}")
		if err := w.put(); err != nil {
			return err
		}
	}
	w.epochs++
	for _, n := range e.Instrumented {
		w.text(`{"instrumented":{"device":`)
		w.node(n)
		w.text("}}")
		if err := w.put(); err != nil {
			return err
		}
	}
	for i := range e.Flows {
		if err := w.flow(e, &e.Flows[i]); err != nil {
			return err
		}
	}
	for i := range e.Drops {
		if err := w.drop(&e.Drops[i]); err != nil {
			return err
		}
	}
	if e.Truth != nil {
		if err := w.truth(e.Truth); err != nil {
			return err
		}
	}
	w.flows += len(e.Flows)
	return nil
}

func (w *Writer) flow(e *Epoch, f *Flow) error {
	w.text(`{"flow":{"src":`)
	w.node(f.Src)
	w.text(`,"dst":`)
	w.node(f.Dst)
	w.text(`,"packets":`)
	w.number(f.Packets)
	w.text(`,"retransmits":`)
	w.number(f.Retransmits)
	w.between(f.Between)
	switch {
	case f.count == 0:
	case f.Candidates:
		w.text(`,"paths":`)
		w.list(int(f.count), func(k int) { w.path(e.Path(f, k)) })
	default:
		w.text(`,"path":`)
		w.path(e.Path(f, 0))
	}
	w.text("}}")
	return w.put()
}

func (w *Writer) between(b Between) {
	if b.Known() {
		w.text(`,"between_ns":[`)
		w.number(b.FirstNS)
		w.text(",")
		w.number(b.LastNS)
		w.text("]")
	}
}

func (w *Writer) path(p []LinkID) {
	w.list(len(p)+1, func(i int) {
		if i == 0 {
			w.node(w.topo.from[p[0]])
		} else {
			w.node(w.topo.to[p[i-1]])
		}
	})
}

func (w *Writer) drop(d *Drop) error {
	w.text(`{"drop":{"device":`)
	w.node(d.Device)
	if d.From != None {
		w.text(`,"from":`)
		w.node(d.From)
	}
	if d.To != None {
		w.text(`,"to":`)
		w.node(d.To)
	}
	w.text(`,"class":`)
	w.name(d.Class)
	w.text(`,"count":`)
	w.number(d.Count)
	w.between(d.Between)
	w.text("}}")
	return w.put()
}

func (w *Writer) truth(t *Truth) error {
	w.text(`{"truth":{"links":`)
	w.list(len(t.Links), func(i int) { w.link(t.Links[i]) })
	w.text(`,"devices":`)
	w.list(len(t.Devices), func(i int) { w.node(t.Devices[i]) })
	w.text(`,"hosts":`)
	w.list(len(t.Hosts), func(i int) { w.node(t.Hosts[i]) })
	w.text(`,"causes":`)
	w.list(len(t.Causes), func(i int) {
		w.text(`{"flow":`)
		w.number(uint64(w.flows + int(t.Causes[i].Flow) + 1))
		w.text(`,"link":`)
		w.link(t.Causes[i].Link)
		w.text("}")
	})
	w.text("}}")
	return w.put()
}
