package hostagent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"
)

// flowSpaces are the network namespaces whose sockets are listed beside the
// agent's own. None is kept open from one dump to the next: that would keep it
// alive when its last process is gone.
type flowSpaces struct {
	own   *os.File
	inum  uint32
	names []string
	all   bool

	found []string // files of the namespaces of processes, with all
	at    time.Time

	was map[uint32]bool // in the latest each
}

// namespacesEvery is how often the namespaces of processes are looked for: there
// may be many processes.
const namespacesEvery = 30 * time.Second

func newFlowSpaces(own *os.File, inum uint32, names []string) *flowSpaces {
	s := &flowSpaces{own: own, inum: inum}
	for _, name := range names {
		switch {
		case name == allNamespaces:
			s.all = true
		case filepath.IsAbs(name):
			s.names = append(s.names, name)
		default:
			s.names = append(s.names, filepath.Join(namedNetNS, name))
		}
	}
	return s
}

// each calls do, if any, in every namespace, its own first. More may be gone, or not there
// yet: others says that they are not those of the time before; errors of theirs
// come together at the end. The calling thread is in the agent's own
// namespace again afterwards, or the error is fatal.
func (s *flowSpaces) each(do func() error) (others, fatal bool, err error) {
	var errs []error
	if do != nil {
		errs = append(errs, do())
	}
	done := map[uint32]bool{s.inum: true}
	defer func() { others, s.was = s.was != nil && !maps.Equal(done, s.was), done }()
	for _, file := range s.files() {
		f, inum, err := openNetNS(file)
		if err != nil || done[inum] {
			if err == nil {
				f.Close()
			}
			continue // gone with its last process, or a second name
		}
		done[inum] = true
		if do == nil {
			f.Close()
			continue
		}
		if err = enterNetNS(f, inum); err == nil {
			err = do()
		}
		f.Close()
		if err != nil {
			errs = append(errs, fmt.Errorf("network namespace %s: %w", file, err))
		}
	}
	if do != nil && len(done) > 1 {
		if err := enterNetNS(s.own, s.inum); err != nil {
			return false, true, fmt.Errorf("come back from another network namespace: %w", err)
		}
	}
	return false, false, errors.Join(errs...)
}

// files are where namespaces are to be found now.
func (s *flowSpaces) files() []string {
	if !s.all {
		return s.names
	}
	named, _ := filepath.Glob(filepath.Join(namedNetNS, "*"))
	if now := time.Now(); now.Sub(s.at) >= namespacesEvery || s.at.IsZero() {
		s.at, s.found = now, nil
		seen := map[string]bool{}
		processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
		for _, file := range processes {
			if id, err := os.Readlink(file); err == nil && !seen[id] {
				seen[id] = true
				s.found = append(s.found, file)
			}
		}
	}
	return append(append(named, s.names...), s.found...)
}
