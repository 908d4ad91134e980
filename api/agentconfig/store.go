package agentconfig

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"decaf/topology"

	"github.com/nats-io/nats.go/jetstream"
)

// Store keeps settings in a KV bucket. Safe for concurrent use, also by several
// processes.
type Store struct {
	kv    jetstream.KeyValue
	topo  *topology.Topology
	bound float64 // on traces per second and host, for each ICMP answer per second of a switch
}

// NewStore uses a bucket for the hosts of a topology. [Store.Sync] makes it
// fit them.
func NewStore(kv jetstream.KeyValue, t *topology.Topology) *Store {
	// An error is no regular Clos, of which the bound says nothing.
	bound, _ := t.TraceBudget(1)
	return &Store{kv: kv, topo: t, bound: bound}
}

// Change is one key to set; an empty value takes it back.
type Change struct{ Key, Value string }

// View is what is set for a scope, and for a host what it is told.
type View struct {
	For Scope
	Set Settings
	// Told is of a host; nil for others.
	Told *Told
	// Revision is that of what the host is told, as its heartbeat says it; 0:
	// nothing was ever set for it.
	Revision uint64
	// Others lists the other scopes that have settings, with For all hosts.
	Others map[Scope]Settings
	// TraceBound is that of Told, with For all hosts: 007's bound for the topology,
	// which goes where nobody sets a rate. 0: it says nothing.
	TraceBound float64
}

// errUnfit is an error of what was asked for, not of the store.
type errUnfit struct{ error }

func (e errUnfit) Unwrap() error { return e.error }

// Unfit says that an error is about what was asked for: it tells the asker what
// to change.
func Unfit(err error) bool {
	var e errUnfit
	return errors.As(err, &e)
}

// entry is a value in the bucket.
type entry struct {
	value    []byte
	revision uint64
}

// read fetches all of the bucket.
func (s *Store) read(ctx context.Context) (map[string]entry, error) {
	w, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	defer func() { _ = w.Stop() }()
	all := map[string]entry{}
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read settings: %w", ctx.Err())
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("read settings: the watch ended early")
			}
			if e == nil {
				return all, nil // all that there was
			}
			all[e.Key()] = entry{e.Value(), e.Revision()}
		}
	}
}

// sets are the settings among what the bucket holds. One that cannot be read is
// an error: to pass it over would quietly tell the hosts something else.
func sets(all map[string]entry) (map[Scope]Settings, error) {
	out := map[Scope]Settings{}
	for key, e := range all {
		name, ok := strings.CutPrefix(key, setPrefix)
		if !ok {
			continue
		}
		scope, err := scopeOfKey(name)
		if err != nil {
			return nil, fmt.Errorf("settings under %q: %w", key, err)
		}
		s, err := Decode(e.value)
		if err != nil {
			return nil, fmt.Errorf("for %s: %w; set them anew", scope, err)
		}
		if !s.Empty() {
			out[scope] = s
		}
	}
	return out, nil
}

func scopeOfKey(name string) (Scope, error) {
	sort, rest, _ := strings.Cut(name, ".")
	switch sort {
	case "all":
		return Scope{}, nil
	case "host":
		return Scope{Host: rest}, nil
	case "tag":
		b, err := base64.RawURLEncoding.DecodeString(rest)
		if err != nil {
			return Scope{}, fmt.Errorf("no tag: %w", err)
		}
		tag, value, _ := strings.Cut(string(b), "=")
		return Scope{Tag: tag, Value: value}, nil
	}
	return Scope{}, errors.New("of no known sort")
}

// Sync brings what each host is told in line with what is set: after the
// topology has changed, or after an update that broke off.
func (s *Store) Sync(ctx context.Context) error {
	all, err := s.read(ctx)
	if err != nil {
		return err
	}
	set, err := sets(all)
	if err != nil {
		return err
	}
	for _, h := range s.topo.Hosts {
		value, err := tell(h, set, s.bound).Encode()
		if err != nil {
			return fmt.Errorf("encode settings of %s: %w", h.Name, err)
		}
		old, ok := all[h.Name]
		if !ok && string(value) == "{}" || ok && string(old.value) == string(value) {
			continue
		}
		if _, err := s.kv.Put(ctx, h.Name, value); err != nil {
			return fmt.Errorf("store settings of %s: %w", h.Name, err)
		}
	}
	return nil
}

// Get returns what is set for a scope.
func (s *Store) Get(ctx context.Context, scope Scope) (View, error) {
	if err := scope.in(s.topo); err != nil {
		return View{}, errUnfit{err}
	}
	all, err := s.read(ctx)
	if err != nil {
		return View{}, err
	}
	set, err := sets(all)
	if err != nil {
		return View{}, err
	}
	v := View{For: scope, Set: set[scope], Others: map[Scope]Settings{}}
	if scope.Host != "" {
		h, _ := s.topo.Host(scope.Host)
		told := tell(h, set, s.bound)
		v.Told, v.Revision = &told, all[scope.Host].revision
		return v, nil
	}
	if scope == (Scope{}) {
		delete(set, scope)
		v.Others = set
		v.TraceBound = v.Set.traceBound(s.bound)
	}
	return v, nil
}

// attempts bounds how often a change is tried again when others write at the
// same time.
const attempts = 5

// Set changes settings for a scope and tells the hosts concerned. Either all
// changes are made or none. Concurrent changes of other keys are kept.
func (s *Store) Set(ctx context.Context, scope Scope, changes []Change) (View, error) {
	if err := scope.in(s.topo); err != nil {
		return View{}, errUnfit{err}
	}
	for try := 1; ; try++ {
		err := s.setOnce(ctx, scope, changes)
		if err == nil {
			break
		}
		// 10071: wrong last sequence, somebody else was faster.
		var api jetstream.JetStreamError
		conflict := errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
		if !conflict && !errors.Is(err, jetstream.ErrKeyExists) || try == attempts {
			return View{}, err
		}
	}
	if err := s.Sync(ctx); err != nil {
		return View{}, err
	}
	return s.Get(ctx, scope)
}

func (s *Store) setOnce(ctx context.Context, scope Scope, changes []Change) error {
	var now Settings
	revision := uint64(0)
	e, err := s.kv.Get(ctx, scope.key())
	switch {
	case err == nil:
		revision = e.Revision()
		// What cannot be read is replaced.
		now, _ = Decode(e.Value())
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return fmt.Errorf("read settings for %s: %w", scope, err)
	}
	var errs []error
	for _, c := range changes {
		if err := now.Set(c.Key, c.Value); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return errUnfit{err}
	}
	value, err := now.Encode()
	if err != nil {
		return fmt.Errorf("encode settings for %s: %w", scope, err)
	}
	if revision == 0 {
		_, err = s.kv.Create(ctx, scope.key(), value)
	} else {
		_, err = s.kv.Update(ctx, scope.key(), value, revision)
	}
	if err != nil {
		return fmt.Errorf("store settings for %s: %w", scope, err)
	}
	return nil
}
