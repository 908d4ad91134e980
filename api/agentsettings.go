package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"decaf/api/agentconfig"
	"decaf/api/bus"
)

// AgentSettings keeps what host agents are told. agentconfig.Store is one; an
// error that agentconfig.Unfit knows reaches the user as it is.
type AgentSettings interface {
	Get(ctx context.Context, scope agentconfig.Scope) (agentconfig.View, error)
	Set(ctx context.Context, scope agentconfig.Scope, changes []agentconfig.Change) (agentconfig.View, error)
}

// SettingsView is what is set for all hosts, for those with a tag, or for one.
type SettingsView struct {
	For string            `json:"for"` // "all", "tag:NAME=VALUE" or a host
	Set map[string]string `json:"set"` // by key, as it is written
	// Of a host alone: what comes of it all, by which settings ("topology" for what
	// follows from that), and the revision that its agent's heartbeat says once it
	// does so.
	Told     map[string]string `json:"told,omitempty"`
	From     map[string]string `json:"from,omitempty"`
	Revision uint64            `json:"revision,omitempty"`
	// Of all alone: the others that have settings, and 007's bound on traces per
	// second and host for the topology, which goes where nobody sets a rate; 0: the
	// topology is no regular Clos.
	Others     []SettingsView `json:"others,omitempty"`
	TraceBound float64        `json:"trace_bound,omitempty"`
}

// SettingsRequest changes settings; an empty value takes one back.
type SettingsRequest struct {
	For string            `json:"for"`
	Set map[string]string `json:"set"`
}

func settingsText(s interface{ Get(string) (string, bool) }) map[string]string {
	out := map[string]string{}
	for _, name := range agentconfig.Keys() {
		if v, ok := s.Get(name); ok {
			out[name] = v
		}
	}
	return out
}

func settingsView(v agentconfig.View) SettingsView {
	out := SettingsView{For: v.For.String(), Set: settingsText(v.Set), Revision: v.Revision, TraceBound: v.TraceBound}
	if v.Told != nil {
		out.Told, out.From = settingsText(*v.Told), v.Told.From
	}
	for scope, s := range v.Others {
		out.Others = append(out.Others, SettingsView{For: scope.String(), Set: settingsText(s)})
	}
	slices.SortFunc(out.Others, func(a, b SettingsView) int { return strings.Compare(a.For, b.For) })
	return out
}

// settings gives the store, or says that there is none.
func (s *Server) settings() (AgentSettings, error) {
	if s.cfg.Settings == nil {
		return nil, NotFound("this server keeps no settings of agents")
	}
	return s.cfg.Settings, nil
}

func (s *Server) getSettings(w http.ResponseWriter, r *http.Request) error {
	store, err := s.settings()
	if err != nil {
		return err
	}
	q := r.URL.Query()
	for name := range q {
		if name != "for" {
			return BadRequest("unknown parameter %q%s", clip(name), among(name, []string{"for"}))
		}
	}
	scope, err := askedScope(q.Get("for"))
	if err != nil {
		return err
	}
	view, err := store.Get(r.Context(), scope)
	return answerSettings(w, view, err)
}

// mayTellAgents lets in who may change what every host does: over TLS an
// administrator, by a certificate of the server's authority for admin.<name>, as
// NATS does; without TLS whoever is on this machine.
func mayTellAgents(r *http.Request) error {
	if r.TLS == nil {
		return nil
	}
	if len(r.TLS.VerifiedChains) == 0 {
		return forbidden("only an administrator may change what agents do, and this client shows no certificate: give one for admin.<name>, of the authority in the server's api.tls.ca, with --cert and --key")
	}
	cn := r.TLS.VerifiedChains[0][0].Subject.CommonName
	if role, name, ok := strings.Cut(cn, "."); !ok || role != bus.RoleAdmin || name == "" {
		return forbidden("only an administrator may change what agents do, and this client's certificate is for %q: use one for admin.<name>", clip(cn))
	}
	return nil
}

func forbidden(format string, args ...any) *Error {
	return &Error{Status: http.StatusForbidden, Title: "not allowed", Detail: fmt.Sprintf(format, args...)}
}

// maxSettingsBody bounds a request: longer than all settings together may be.
const maxSettingsBody = 64 << 10

func (s *Server) setSettings(w http.ResponseWriter, r *http.Request) error {
	store, err := s.settings()
	if err != nil {
		return err
	}
	if err := none(r); err != nil {
		return err
	}
	if err := mayTellAgents(r); err != nil {
		return err
	}
	var req SettingsRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSettingsBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return BadRequest(`the body cannot be read (%v); send {"for": "all", "set": {"interval": "10s"}}`, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return BadRequest("more follows after the end of the settings")
	}
	if len(req.Set) == 0 {
		return BadRequest("nothing to set; there are %s", strings.Join(agentconfig.Keys(), ", "))
	}
	scope, err := askedScope(req.For)
	if err != nil {
		return err
	}
	var changes []agentconfig.Change
	for key, value := range req.Set {
		changes = append(changes, agentconfig.Change{Key: key, Value: value})
	}
	slices.SortFunc(changes, func(a, b agentconfig.Change) int { return strings.Compare(a.Key, b.Key) })
	view, err := store.Set(r.Context(), scope, changes)
	return answerSettings(w, view, err)
}

func askedScope(text string) (agentconfig.Scope, error) {
	if text == "" {
		text = "all"
	}
	if len(text) > maxName {
		return agentconfig.Scope{}, BadRequest("for: longer than any name")
	}
	scope, err := agentconfig.ParseScope(text)
	if err != nil {
		return scope, BadRequest("for: %v", err)
	}
	return scope, nil
}

func answerSettings(w http.ResponseWriter, v agentconfig.View, err error) error {
	switch {
	case err != nil && agentconfig.Unfit(err):
		return BadRequest("%v", err)
	case err != nil:
		return fmt.Errorf("settings of agents: %w", err)
	}
	return writeJSON(w, http.StatusOK, settingsView(v))
}

// agentsConfigCommand is `decaf agents config`.
func agentsConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or change what host agents are told to do",
		Long: `Show or change what host agents are told to do while they run. Settings are given
for all hosts, for those with a tag, or for one host: a host's own win over its
tags', which win over those for all; where two tags say the same key, the one
whose name comes later in the alphabet wins.

Settings:
` + aboutSettings() + `
Over https only an administrator may change settings: give --cert and --key of a
certificate for admin.<name>. An agent may read its own settings and write none.

What is set nowhere is as the host's own configuration file says. Where neither
sets a trace_rate, it is the most that keeps every switch within switch_icmp
answers per second, by 007's bound for the topology if that is a regular Clos:
"topology" in the column set_for. Agents hear of a change at once, and ask with
each heartbeat; "revision" in ` + "`decaf agents -o json`" + ` is what they do now.`,
	}
	cmd.AddCommand(agentsConfigGetCommand(), agentsConfigSetCommand())
	return cmd
}

func aboutSettings() string {
	var b strings.Builder
	for _, name := range agentconfig.Keys() {
		fmt.Fprintf(&b, "  %-11s %s\n", name, agentconfig.About(name))
	}
	return b.String()
}

func agentsConfigGetCommand() *cobra.Command {
	var a ask
	cmd := &cobra.Command{
		Use:   "get [all|HOST|tag:NAME=VALUE]",
		Short: "Show settings; of a host also what comes of them all",
		Example: `  decaf agents config get
  decaf agents config get web-1
  decaf agents config get tag:rack=r1 --output json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{}
			if len(args) == 1 {
				q.Set("for", args[0])
			}
			return askSettings(cmd, &a, http.MethodGet, q, nil)
		},
	}
	return a.verb(cmd)
}

func agentsConfigSetCommand() *cobra.Command {
	var a ask
	cmd := &cobra.Command{
		Use:   "set all|HOST|tag:NAME=VALUE KEY=VALUE...",
		Short: "Change settings; KEY= takes one back",
		Example: `  decaf agents config set all interval=10s sample=1/10
  decaf agents config set tag:rack=r1 trace_rate=5
  decaf agents config set web-1 tracking=off
  decaf agents config set web-1 ignore=10.0.0.0/8,:22 only=
  decaf agents config set all balancer=http://lb.example:8080/flow,10.9.0.0/16,200ms
  decaf agents config set web-1 survey=10m,10.0.1.1:443,99%`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("say for whom and what, as in `decaf agents config set all interval=10s`; KEY is one of " + strings.Join(agentconfig.Keys(), ", "))
			}
			if _, err := agentconfig.ParseScope(args[0]); err != nil {
				return err
			}
			req := SettingsRequest{For: args[0], Set: map[string]string{}}
			var try agentconfig.Settings
			var errs []error
			for _, arg := range args[1:] {
				key, value, ok := strings.Cut(arg, "=")
				if !ok {
					errs = append(errs, fmt.Errorf("%q: write KEY=VALUE", arg))
					continue
				}
				if _, twice := req.Set[key]; twice {
					errs = append(errs, fmt.Errorf("%s is given twice", key))
				}
				req.Set[key] = value
				errs = append(errs, try.Set(key, value))
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			body, err := json.Marshal(req)
			if err != nil {
				return fmt.Errorf("encode settings: %w", err)
			}
			return askSettings(cmd, &a, http.MethodPatch, nil, body)
		},
	}
	return a.verb(cmd)
}

// settingRow is a setting as the tables show it.
type settingRow struct{ who, key, value, from string }

func askSettings(cmd *cobra.Command, a *ask, method string, q url.Values, body []byte) error {
	c, err := a.open()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	var v SettingsView
	raw, err := c.do(ctx, method, "agents/config", q, body, &v)
	if err != nil {
		return err
	}
	var rows []settingRow
	if v.Told != nil {
		for _, name := range agentconfig.Keys() {
			if value, ok := v.Told[name]; ok {
				rows = append(rows, settingRow{v.For, name, value, v.From[name]})
			}
		}
	} else {
		if _, ok := v.Set["trace_rate"]; !ok && v.TraceBound > 0 {
			rows = append(rows, settingRow{v.For, "trace_rate", strconv.FormatFloat(v.TraceBound, 'g', 4, 64), agentconfig.FromTopology})
		}
		for _, one := range append([]SettingsView{v}, v.Others...) {
			for _, name := range agentconfig.Keys() {
				if value, ok := one.Set[name]; ok {
					rows = append(rows, settingRow{one.For, name, value, one.For})
				}
			}
		}
	}
	columns := []column[settingRow]{
		{name: "for", text: func(r settingRow) string { return r.who }},
		{name: "key", text: func(r settingRow) string { return r.key }},
		{name: "value", text: func(r settingRow) string { return r.value }},
		{name: "set_for", text: func(r settingRow) string { return r.from }},
	}
	if err := write(cmd.OutOrStdout(), a.output, raw, columns, rows); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if a.forPeople() && len(rows) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing set: agents do as their own configuration files say")
	}
	return nil
}
