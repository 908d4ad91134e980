package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netns"
)

// A process may have 20,000 files open on some machines, and a connection needs
// two: open connections are held by processes of their own.
const socketsPerProcess = 5_000

// hostLoad is processes that hold connections from a to b.
type hostLoad struct{ parts []*process }

// load opens connections.
func (h *hostRun) load(ctx context.Context, sockets int) (_ *hostLoad, err error) {
	l := &hostLoad{}
	defer func() {
		if err != nil {
			l.stop()
		}
	}()
	for left := sockets; left > 0; left -= socketsPerProcess {
		r, w := io.Pipe()
		p, err := h.a.start(w, "sim", "bench", "host-load", h.b.file(), strconv.Itoa(min(left, socketsPerProcess)))
		if err != nil {
			return nil, err
		}
		l.parts = append(l.parts, p)
		ready := make(chan error, 1)
		go func() {
			line, err := bufio.NewReader(r).ReadString('\n')
			if err == nil && line != "ready\n" {
				err = fmt.Errorf("said %q", line)
			}
			ready <- err
			io.Copy(io.Discard, r)
		}()
		select {
		case err = <-ready:
		case died := <-p.done:
			p.done <- died
			err = fmt.Errorf("ended (%v)", died)
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("a process that holds connections: %w: %s", err, p.out.String())
		}
	}
	return l, nil
}

// rate sets how many bytes a second are sent, each by one of the connections.
func (l *hostLoad) rate(n int) error {
	var errs []error
	for _, p := range l.parts {
		_, err := fmt.Fprintf(p.in, "%d\n", n/len(l.parts))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (l *hostLoad) stop() {
	for _, p := range l.parts {
		p.stop()
	}
}

// file is the namespace's, for other processes while this one lives.
func (s *space) file() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(s.ns)) }

// hostLoadCommands are what the host benchmark starts as processes of its own.
func hostLoadCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: "host-load NAMESPACE N", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return err
			}
			return holdConnections(cmd.InOrStdin(), cmd.OutOrStdout(), args[0], n)
		},
	}}
}

// holdConnections opens n connections to a listener in another namespace, says
// "ready", and then sends single bytes at the rate that its input says last.
func holdConnections(in io.Reader, out io.Writer, namespace string, n int) error {
	var ln net.Listener
	listening := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		ns, err := netns.GetFromPath(namespace)
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			ln, err = net.Listen("tcp4", hostAddrB+":0")
		}
		listening <- err
	}()
	if err := <-listening; err != nil {
		return err
	}
	accepted := make(chan net.Conn)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	var held, answering []net.Conn
	for range n {
		c, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			return fmt.Errorf("connection %d: %w", len(held), err)
		}
		held, answering = append(held, c), append(answering, <-accepted)
	}
	defer runtime.KeepAlive(answering) // what they get stays in their buffers
	fmt.Fprintln(out, "ready")

	rates := make(chan int)
	go func() {
		defer close(rates)
		for s := bufio.NewScanner(in); s.Scan(); {
			if r, err := strconv.Atoi(strings.TrimSpace(s.Text())); err == nil {
				rates <- r
			}
		}
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	rate, sent, since := 0, 0, time.Now()
	for {
		select {
		case r, ok := <-rates:
			if !ok {
				return nil
			}
			rate, sent, since = r, 0, time.Now()
		case <-tick.C:
			for due := int(time.Since(since).Seconds() * float64(rate)); sent < due; sent++ {
				if _, err := held[rand.IntN(len(held))].Write([]byte("x")); err != nil {
					return err
				}
			}
		}
	}
}
