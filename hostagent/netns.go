package hostagent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// threadNetNS is the calling thread's network namespace.
const threadNetNS = "/proc/thread-self/ns/net"

// openNetNS opens a network namespace by its file, such as /run/netns/web; no
// name means the calling thread's. It returns its inode number as well, by
// which the kernel's programs know it.
func openNetNS(name string) (*os.File, uint32, error) {
	if name == "" {
		name = threadNetNS
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("find the network namespace to watch (is /proc mounted?): %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("find the network namespace to watch: %w", err)
	}
	inum, err := inodeOf(fi)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, inum, nil
}

// inodeOf is the inode number of a namespace, of its file.
func inodeOf(fi os.FileInfo) (uint32, error) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("find the network namespace to watch: no inode number")
	}
	return uint32(st.Ino), nil
}

// allNamespaces as a name of a namespace stands for all there are.
const allNamespaces = "all"

// namedNetNS is where namespaces with a name have their files.
const namedNetNS = "/run/netns"

// spaces are the network namespaces to watch beside the agent's own, which come
// and go.
type spaces struct {
	own    uint32
	names  []string
	log    *slog.Logger
	silent map[string]bool // said to be missing
}

func newSpaces(own uint32, names []string, log *slog.Logger) *spaces {
	return &spaces{own: own, names: names, log: log, silent: map[string]bool{}}
}

// all says that every namespace is watched.
func (s *spaces) all() bool { return slices.Contains(s.names, allNamespaces) }

// watchedSpaces are network namespaces that are there now.
type watchedSpaces struct {
	named []namedSpace // without the agent's own, each once
	all   bool         // and every other of the machine
}

// namedSpace is a network namespace and where it is to be found.
type namedSpace struct {
	inum uint32
	file string
}

// inums are the inode numbers of those that are named.
func (w watchedSpaces) inums() []uint32 {
	out := make([]uint32, 0, len(w.named))
	for _, n := range w.named {
		out = append(out, n.inum)
	}
	return out
}

// refresh returns those that are there now.
func (s *spaces) refresh() watchedSpaces {
	out := watchedSpaces{all: s.all()}
	for _, name := range s.names {
		if name == allNamespaces {
			continue
		}
		file := name
		if !filepath.IsAbs(name) {
			file = filepath.Join(namedNetNS, name)
		}
		f, inum, err := openNetNS(file)
		if err != nil {
			if !s.silent[name] {
				s.log.Warn("cannot watch a network namespace until it is there", "namespace", name, "err", err)
			}
			s.silent[name] = true
			continue
		}
		f.Close()
		s.silent[name] = false
		if inum != s.own && !slices.Contains(out.inums(), inum) {
			out.named = append(out.named, namedSpace{inum, file})
		}
	}
	return out
}
