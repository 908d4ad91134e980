package hostagent

import (
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cgroupRoots are where control groups (version 2) are found.
var cgroupRoots = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// containers tell the name of a container by the id of its control group, which
// is the inode number of its directory. Safe for concurrent use.
type containers struct {
	roots []string
	mu    sync.Mutex
	names map[uint64]string
	read  time.Time // when the directories were last read
}

// Control groups come and go with their containers; one not known is looked for
// at most this often.
const cgroupsEvery = 5 * time.Second

// maxCgroups bounds what is remembered.
const maxCgroups = 16384

func newContainers(roots []string) *containers {
	return &containers{roots: roots, names: map[uint64]string{}}
}

// name is that of the control group with an id: the container's, or, of a
// service or a session, that of its unit; "" when it is not known, and for the
// root.
func (c *containers) name(id uint64) string {
	if id <= 1 {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name, ok := c.names[id]
	if ok || time.Since(c.read) < cgroupsEvery {
		return name
	}
	c.refresh()
	c.read = time.Now()
	return c.names[id]
}

// refresh reads the directories of all control groups.
func (c *containers) refresh() {
	clear(c.names)
	for _, root := range c.roots {
		if _, err := os.Stat(path.Join(root, "cgroup.procs")); err != nil {
			continue // not there, or a hierarchy of version 1
		}
		fs.WalkDir(os.DirFS(root), ".", func(at string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return fs.SkipDir // it went meanwhile
			case !d.IsDir():
				return nil
			case len(c.names) >= maxCgroups:
				return fs.SkipAll
			}
			if fi, err := d.Info(); err == nil {
				if st, ok := fi.Sys().(*syscall.Stat_t); ok {
					c.names[st.Ino] = containerName(at)
				}
			}
			return nil
		})
		return
	}
}

// containerID is how container runtimes name the groups of their containers:
// docker-<id>.scope, cri-containerd-<id>.scope, crio-<id>, libpod-<id>,
// <slice>:cri-containerd:<id>, or the id alone under /docker or /kubepods.
var containerID = regexp.MustCompile(`^(?:[^/]*[:-])?([0-9a-f]{64})(?:\.scope)?$`)

// machineName is how systemd-nspawn (a service of its own, or machinectl's and
// libvirt's scopes) and LXC name theirs: the name is that which machinectl list,
// or lxc-ls, shows.
var machineName = regexp.MustCompile(`^(?:systemd-nspawn@(.+)\.service|machine-(.+)\.scope|lxc\.payload\.(.+))$`)

// containerName makes a name of the path of a control group.
func containerName(at string) string {
	if at == "." {
		return ""
	}
	parts := strings.Split(at, "/")
	for i := len(parts) - 1; i >= 0; i-- {
		if m := containerID.FindStringSubmatch(parts[i]); m != nil {
			return m[1][:12] // as docker ps and crictl ps show it
		}
		if m := machineName.FindStringSubmatch(parts[i]); m != nil {
			return unescapeUnit(m[1] + m[2] + m[3])
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		if strings.HasSuffix(parts[i], ".service") || strings.HasSuffix(parts[i], ".scope") {
			return parts[i]
		}
	}
	return parts[len(parts)-1]
}

// escapedByte is how systemd writes a byte that a unit's name must not have.
var escapedByte = regexp.MustCompile(`\\x[0-9a-f]{2}`)

// unescapeUnit undoes systemd-escape.
func unescapeUnit(s string) string {
	return escapedByte.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[2:], 16, 8) // two hexadecimal digits
		return string([]byte{byte(n)})
	})
}
