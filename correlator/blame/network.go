package blame

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Network is a fabric by integer ids: devices 0…, hosts 0…, directed links 0….
// Links between devices come first, then two per host: from it and to it.
// A Network is safe for use by several goroutines: only a cache of shortest
// paths changes.
type Network struct {
	devices, hosts     []string
	deviceID, hostID   map[string]int32
	linkFrom, linkTo   []int32 // of links between devices: device ids
	linkID             map[[2]int32]int32
	tor                []int32 // by host
	torHosts           []int32 // hosts by device
	outStart, outLinks []int32 // links out of a device, as offsets and ids
	inStart, inLinks   []int32
	hostStart, hostIDs []int32 // hosts of a device
	entryStart         []int32 // links into a device, its hosts' too
	entryLinks         []int32
	hostLinks          []int32 // up and down, by host
	twin               []int32 // devices with the same neighbours share a number

	mu       sync.Mutex
	distance map[int32][]int16 // by twin number: hops to any device of that number
	shares   map[[2]int32]*shareSet
	held     int // entries in shares
}

// NewNetwork makes a network of links between devices, both directions meant,
// and of hosts, each with the device it hangs on. A link given twice is one
// link. Names that are empty, hold '>' or serve a device and a host both are
// errors.
func NewNetwork(links [][2]string, hosts map[string]string) (*Network, error) {
	n := &Network{
		deviceID: make(map[string]int32),
		hostID:   make(map[string]int32, len(hosts)),
		linkID:   make(map[[2]int32]int32, 2*len(links)),
		distance: make(map[int32][]int16),
		shares:   make(map[[2]int32]*shareSet),
	}
	device := func(name string) (int32, error) {
		if name == "" || strings.Contains(name, ">") {
			return 0, fmt.Errorf("device %q: give a name without '>'", name)
		}
		if _, twice := hosts[name]; twice {
			return 0, fmt.Errorf("%q is a host and a device: give them different names", name)
		}
		id, ok := n.deviceID[name]
		if !ok {
			id = int32(len(n.devices))
			n.devices = append(n.devices, name)
			n.deviceID[name] = id
		}
		return id, nil
	}
	for i, l := range links {
		a, err := device(l[0])
		if err != nil {
			return nil, fmt.Errorf("link %d: %w", i, err)
		}
		b, err := device(l[1])
		if err != nil {
			return nil, fmt.Errorf("link %d: %w", i, err)
		}
		if a == b {
			return nil, fmt.Errorf("link %d joins %q to itself", i, l[0])
		}
		n.addLink(a, b)
		n.addLink(b, a)
	}
	n.hosts = slices.Sorted(maps.Keys(hosts))
	n.tor = make([]int32, len(n.hosts))
	for i, h := range n.hosts {
		if h == "" || strings.Contains(h, ">") {
			return nil, fmt.Errorf("host %q: give a name without '>'", h)
		}
		d, err := device(hosts[h])
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", h, err)
		}
		n.hostID[h], n.tor[i] = int32(i), d
	}
	n.index()
	return n, nil
}

func (n *Network) addLink(a, b int32) {
	if _, twice := n.linkID[[2]int32{a, b}]; twice {
		return
	}
	n.linkID[[2]int32{a, b}] = int32(len(n.linkFrom))
	n.linkFrom, n.linkTo = append(n.linkFrom, a), append(n.linkTo, b)
}

// index sorts links and hosts by device.
func (n *Network) index() {
	d := len(n.devices)
	n.outStart, n.outLinks = bucket(n.linkFrom, d)
	n.inStart, n.inLinks = bucket(n.linkTo, d)
	n.hostStart, n.hostIDs = bucket(n.tor, d)
	// In the order of their far ends: devices with the same neighbours then have
	// their links in the same order.
	for v := range int32(d) {
		slices.SortFunc(n.linksOutOf(v), func(a, b int32) int { return cmp.Compare(n.linkTo[a], n.linkTo[b]) })
		slices.SortFunc(n.linksInto(v), func(a, b int32) int { return cmp.Compare(n.linkFrom[a], n.linkFrom[b]) })
	}
	n.entryStart = make([]int32, 1, d+1)
	n.hostLinks = make([]int32, 0, 2*len(n.hosts))
	for h := range int32(len(n.hosts)) {
		n.hostLinks = append(n.hostLinks, n.Up(h), n.Down(h))
	}
	for v := range int32(d) {
		n.entryLinks = append(n.entryLinks, n.linksInto(v)...)
		for _, h := range n.hostsOf(v) {
			n.entryLinks = append(n.entryLinks, n.Up(h))
		}
		n.entryStart = append(n.entryStart, int32(len(n.entryLinks)))
	}
	n.torHosts = make([]int32, d)
	for _, t := range n.tor {
		n.torHosts[t]++
	}
	n.twin = make([]int32, d)
	numbers := make(map[string]int32)
	var key []byte
	var near []int32
	for v := range n.devices {
		near = near[:0]
		for _, l := range n.linksInto(int32(v)) {
			near = append(near, n.linkFrom[l])
		}
		key = key[:0]
		for _, u := range near {
			key = append(key, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
		}
		number, ok := numbers[string(key)]
		if !ok {
			number = int32(len(numbers))
			numbers[string(key)] = number
		}
		n.twin[v] = number
	}
}

// bucket sorts the indexes of keys by key: those with key k are
// ids[start[k]:start[k+1]].
func bucket(keys []int32, size int) (start, ids []int32) {
	start = make([]int32, size+1)
	for _, k := range keys {
		start[k+1]++
	}
	for k := range size {
		start[k+1] += start[k]
	}
	ids = make([]int32, len(keys))
	next := slices.Clone(start)
	for i, k := range keys {
		ids[next[k]] = int32(i)
		next[k]++
	}
	return start, ids
}

func (n *Network) linksOutOf(v int32) []int32 { return n.outLinks[n.outStart[v]:n.outStart[v+1]] }
func (n *Network) linksInto(v int32) []int32  { return n.inLinks[n.inStart[v]:n.inStart[v+1]] }
func (n *Network) hostsOf(v int32) []int32    { return n.hostIDs[n.hostStart[v]:n.hostStart[v+1]] }

// fabric is the number of links between devices: the first host link's id.
func (n *Network) fabric() int32 { return int32(len(n.linkFrom)) }

// Links, Devices and Hosts say how many there are.
func (n *Network) Links() int   { return len(n.linkFrom) + 2*len(n.hosts) }
func (n *Network) Devices() int { return len(n.devices) }
func (n *Network) Hosts() int   { return len(n.hosts) }

// Device and Host give the id of a name.
func (n *Network) Device(name string) (int32, bool) { id, ok := n.deviceID[name]; return id, ok }
func (n *Network) Host(name string) (int32, bool)   { id, ok := n.hostID[name]; return id, ok }

// DeviceName and HostName give the name of an id.
func (n *Network) DeviceName(id int32) string { return n.devices[id] }
func (n *Network) HostName(id int32) string   { return n.hosts[id] }

// Up and Down are the links from a host to its device and back.
func (n *Network) Up(host int32) int32   { return n.fabric() + 2*host }
func (n *Network) Down(host int32) int32 { return n.fabric() + 2*host + 1 }

// ToR is the device a host hangs on.
func (n *Network) ToR(host int32) int32 { return n.tor[host] }

// Between gives the directed link between two devices.
func (n *Network) Between(from, to int32) (int32, bool) {
	id, ok := n.linkID[[2]int32{from, to}]
	return id, ok
}

// Link gives the directed link between two names, devices or hosts.
func (n *Network) Link(from, to string) (int32, bool) {
	if h, ok := n.hostID[from]; ok {
		return n.Up(h), n.devices[n.tor[h]] == to
	}
	if h, ok := n.hostID[to]; ok {
		return n.Down(h), n.devices[n.tor[h]] == from
	}
	a, okA := n.deviceID[from]
	b, okB := n.deviceID[to]
	if !okA || !okB {
		return 0, false
	}
	return n.Between(a, b)
}

// LinkName is "from>to".
func (n *Network) LinkName(l int32) string {
	if f := n.fabric(); l >= f {
		h := (l - f) / 2
		if (l-f)%2 == 0 {
			return n.hosts[h] + ">" + n.devices[n.tor[h]]
		}
		return n.devices[n.tor[h]] + ">" + n.hosts[h]
	}
	return n.devices[n.linkFrom[l]] + ">" + n.devices[n.linkTo[l]]
}

// ends gives the devices at the ends of a link, -1 for a host.
func (n *Network) ends(l int32) (from, to int32) {
	f := n.fabric()
	switch {
	case l < f:
		return n.linkFrom[l], n.linkTo[l]
	case (l-f)%2 == 0:
		return -1, n.tor[(l-f)/2]
	default:
		return n.tor[(l-f)/2], -1
	}
}

// valid says whether a link id exists.
func (n *Network) valid(l int32) bool { return l >= 0 && int(l) < n.Links() }

func (n *Network) validHost(h int32) bool { return h >= 0 && int(h) < len(n.hosts) }

func (n *Network) validDevice(d int32) bool { return d >= 0 && int(d) < len(n.devices) }

// Kind is what a component is.
type Kind uint8

// Kinds of component. None is the cause of a loss that no component explains.
const (
	None Kind = iota
	Link
	Device
	Host
)

// Component is a link, device or host by its id.
type Component struct {
	Kind Kind
	ID   int32
}

// Name is "link a>b", "device d", "host h", or "noise".
func (n *Network) Name(c Component) string {
	switch c.Kind {
	case Link:
		return "link " + n.LinkName(c.ID)
	case Device:
		return "device " + n.devices[c.ID]
	case Host:
		return "host " + n.hosts[c.ID]
	default:
		return "noise"
	}
}

// linksOf gives the directed links that make up a component: all that touch it.
func (n *Network) linksOf(c Component) []int32 {
	switch c.Kind {
	case Link:
		return []int32{c.ID}
	case Device:
		links := slices.Concat(n.linksInto(c.ID), n.linksOutOf(c.ID))
		for _, h := range n.hostsOf(c.ID) {
			links = append(links, n.Up(h), n.Down(h))
		}
		return links
	case Host:
		return []int32{n.Up(c.ID), n.Down(c.ID)}
	default:
		return nil
	}
}

// entries gives links that together carry each packet through a component
// once: the links into a device, both of a host. Do not change them.
func (n *Network) entries(c Component) []int32 {
	switch c.Kind {
	case Device:
		return n.entryLinks[n.entryStart[c.ID]:n.entryStart[c.ID+1]]
	case Host:
		return n.hostLinks[2*c.ID : 2*c.ID+2]
	default:
		return n.linksOf(c)
	}
}
