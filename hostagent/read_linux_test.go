package hostagent

import (
	"sync/atomic"
	"testing"
	"time"

	"decaf/api/decafpb"
)

// purse is a tracer whose budget is spent until somebody fills it.
type purse struct {
	tracerFunc
	full atomic.Bool
}

func (p *purse) Spent() time.Duration {
	if p.full.Load() {
		return 0
	}
	return time.Hour
}

// While no trace can be afforded a retransmit wakes nobody, and is told all the
// same, as refused; the first after there is budget again is traced.
func TestWithoutBudgetTheClockReads(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	tracer := &purse{tracerFunc: complete}
	rec, a := l.watch(l.a, tracer)
	p := l.connect(addrB, false)
	f := l.drop("eth1")
	defer f.remove()
	if _, err := p.client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	with := func(kind decafpb.RetransmitKind, want decafpb.PathStatus) func(*decafpb.Retransmit) bool {
		return func(r *decafpb.Retransmit) bool {
			return isFlow(p.flow(), kind)(r) && r.GetPath().GetStatus() == want
		}
	}
	rec.wait(t, "the probe, refused", with(kindTLP, decafpb.PathStatus_PATH_STATUS_REFUSED))
	rec.wait(t, "a timeout, refused", with(kindRTO, decafpb.PathStatus_PATH_STATUS_REFUSED))
	tracer.full.Store(true)
	rec.wait(t, "a timeout, traced", with(kindRTO, decafpb.PathStatus_PATH_STATUS_COMPLETE))
	if n := a.Counters()[countLostRing]; n != 0 {
		t.Errorf("%d events lost", n)
	}
}
