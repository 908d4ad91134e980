package device

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What is held goes on by itself when its time is up, and at the end.
func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		m := newMerge(func(o observed) { got = append(got, o.event.Source+" after "+time.Since(start).String()) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.run(ctx); close(done) }()

		m.take(0, sight("kernel", 80, 1, 1), waits)
		time.Sleep(2 * time.Millisecond) // of the bubble's clock
		m.take(0, sight("kernel", 80, 2, 1), waits)
		m.take(1, sight("nflog", 80, 2, 1), names)
		m.take(1, sight("nflog", 80, 3, 1), names)
		time.Sleep(time.Second)
		m.take(0, sight("late", 80, 4, 1), waits)
		cancel()
		<-done
		if want := []string{"nflog after 2ms", "kernel after 5ms", "late after 1.002s"}; !slices.Equal(got, want) {
			t.Errorf("gave on %q, want %q", got, want)
		}
		if merged, alone, crowded := m.counts(); merged != 1 || alone != 1 || crowded != 0 {
			t.Errorf("%d merged, %d alone, %d crowded; want 1, 1, 0", merged, alone, crowded)
		}
	})
}
