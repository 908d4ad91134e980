package sim

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"decaf/api"
	"decaf/sim/scenario"
)

// rows is how many rows of a list are asked for; a list that has more is an
// error here, since a run is judged by all of it.
const rows = 10000

// client asks the service over HTTP, as any user's program would.
type client struct{ api *api.Client }

func newClient(base string) (*client, error) {
	c, err := api.NewClient(base, nil)
	return &client{c}, err
}

// list asks for all rows of a list since a time.
func list[T any](ctx context.Context, c *client, path string, since time.Time) ([]T, error) {
	var out api.List[T]
	query := url.Values{"limit": {strconv.Itoa(rows)}, "since": {since.UTC().Format(time.RFC3339Nano)}}
	if _, err := c.api.Get(ctx, path, query, &out); err != nil {
		return nil, err
	}
	if out.LeftOut > 0 {
		return nil, fmt.Errorf("%s: %d rows beyond %d: the run is too long to be judged", path, out.LeftOut, rows)
	}
	return out.Items, nil
}

func (c *client) agents(ctx context.Context) ([]api.AgentView, error) {
	var out api.List[api.AgentView]
	_, err := c.api.Get(ctx, "agents", nil, &out)
	return out.Items, err
}

// waitHeard returns once the service is ready and hears as many agents as there are;
// what fails meanwhile ends the wait.
func (c *client) waitHeard(ctx context.Context, agents int, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := c.agents(ctx)
		missing := silent(list, agents, err)
		if missing == "" {
			return nil
		}
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not ready after %v: nothing heard of %s", readyTime, missing)
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *client) findings(ctx context.Context, since time.Time) ([]api.FindingView, error) {
	return list[api.FindingView](ctx, c, "findings", since)
}

func (c *client) paths(ctx context.Context, since time.Time) ([]api.RetransmitView, error) {
	return list[api.RetransmitView](ctx, c, "paths", since)
}

func (c *client) drops(ctx context.Context, since time.Time) ([]api.DropView, error) {
	return list[api.DropView](ctx, c, "drops", since)
}

func (c *client) report(ctx context.Context, id string) (api.ReportView, error) {
	r, _, err := c.api.Report(ctx, id)
	return r, err
}

// file files a scenario's report about the time since the run began.
func (c *client) file(ctx context.Context, rep scenario.Report, began time.Time) (api.ReportView, error) {
	r, _, err := c.api.FileReport(ctx, api.ReportRequest{
		Src: rep.Src, Dst: rep.Dst, SrcPort: uint16(rep.SrcPort), DstPort: uint16(rep.DstPort),
		From: began.UTC().Format(time.RFC3339Nano), Says: rep.Says,
	})
	return r, err
}
