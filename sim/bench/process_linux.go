package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// process is this program as a child in a namespace.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  bytes.Buffer
	done chan error
	end  chan struct{} // ends the thread that it hangs on, if it is one of its own
}

// newProcess runs this program with other arguments; start starts the command.
func newProcess(stdout io.Writer, start func(*exec.Cmd) error, args ...string) (*process, error) {
	// It is ended in order, by stop.
	cmd, err := program(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan error, 1)}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.cmd.Stderr, p.cmd.Stdout = &p.out, &p.out
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %q: %w", args, err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// start runs this program with other arguments in a namespace.
func (s *space) start(stdout io.Writer, args ...string) (*process, error) {
	end := make(chan struct{})
	p, err := newProcess(stdout, func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		started := make(chan error)
		go func() {
			runtime.LockOSThread() // the death signal is of this thread
			err := netns.Set(s.ns)
			if err == nil {
				err = cmd.Start()
			}
			started <- err
			<-end
		}()
		return <-started
	}, args...)
	if err != nil {
		close(end)
		return nil, err
	}
	p.end = end
	return p, nil
}

// serves waits until a process serves, as ready says.
func (p *process) serves(ctx context.Context, ready func(context.Context) error) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		ask, cancel := context.WithTimeout(ctx, time.Second)
		err := ready(ask)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case died := <-p.done:
			p.done <- died
			return fmt.Errorf("the agent ended at once (%v); it said: %s", died, p.out.String())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the agent does not serve: %w; it said: %s", err, p.out.String())
		}
	}
}

// stop ends the process and waits for it.
func (p *process) stop() {
	p.in.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
	if p.end != nil {
		close(p.end)
	}
}

// cpu is the processor time that the process took so far, by the clock tick.
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, p.gone(err)
	}
	_, rest, ok := strings.Cut(string(b), ") ") // the name may have anything in it
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, fmt.Errorf("read the agent's processor time: %q", b)
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64)
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100), errors.Join(err1, err2) // USER_HZ
}

// resident is the process's resident memory in bytes, to the page. (VmRSS in its
// status is off by what each processor has not yet added up: proc_pid_status(5).)
func (p *process) resident() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return 0, p.gone(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Rss:" {
			kB, err := strconv.ParseFloat(f[1], 64)
			return kB * 1024, err
		}
	}
	return 0, fmt.Errorf("read the agent's memory: no Rss: %w", p.gone(nil))
}

func (p *process) gone(err error) error {
	return errors.Join(fmt.Errorf("the agent is gone; it said: %s", p.out.String()), err)
}

// mapOf finds a map and its kernel memory, in a file of fdinfo.
var mapOf = regexp.MustCompile(`(?s)\nmemlock:\s*(\d+)\n.*?map_id:\s*(\d+)\n`)

// maps is the kernel memory, in bytes, of the eBPF maps that the process holds.
func (p *process) maps() (float64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	took := map[string]float64{} // by the map's number: several files may be of one
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // closed since
		}
		if m := mapOf.FindSubmatch(b); m != nil {
			if took[string(m[2])], err = strconv.ParseFloat(string(m[1]), 64); err != nil {
				return 0, fmt.Errorf("%s: memlock: %w", file, err)
			}
		}
	}
	if len(took) == 0 {
		return 0, p.gone(errors.New("or it has no eBPF map"))
	}
	sum := 0.0
	for _, n := range took {
		sum += n
	}
	return sum, nil
}
