package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Client asks a server for what this package's views say. Safe for concurrent
// use.
type Client struct {
	base      *url.URL
	http      *http.Client
	certified bool // it shows a certificate of its own
}

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 256 << 20

// NewClient returns a client of the server at an address such as
// http://127.0.0.1:8080. tlsConfig may be nil: then https trusts the system's
// authorities. Nothing is dialled yet.
func NewClient(server string, tlsConfig *tls.Config) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("server %q is no address; write http://host:port or https://host:port", clip(server))
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
	}
	certified := tlsConfig != nil && (len(tlsConfig.Certificates) > 0 || tlsConfig.GetClientCertificate != nil)
	return &Client{base: u, http: &http.Client{Transport: transport}, certified: certified && u.Scheme == "https"}, nil
}

// Close ends the connections kept open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get fetches /api/v1/<path> into a view and returns the JSON as it came. An
// error that the server told is an *Error.
func (c *Client) Get(ctx context.Context, path string, query url.Values, into any) (json.RawMessage, error) {
	return c.do(ctx, http.MethodGet, path, query, nil, into)
}

// ReportRequest is what is said in a new fault report. From and To are times
// as VictoriaMetrics writes them, "-5m" or RFC 3339; empty is the last 5
// minutes.
type ReportRequest struct {
	Src     string `json:"src"`
	Dst     string `json:"dst"`
	SrcPort uint16 `json:"src_port,omitempty"`
	DstPort uint16 `json:"dst_port,omitempty"`
	From    string `json:"from,omitempty"`
	To      string `json:"to,omitempty"`
	Says    string `json:"says,omitempty"`
}

// FileReport files a report and returns it with its first verdict. When it
// returns without an error the report is stored durably.
func (c *Client) FileReport(ctx context.Context, r ReportRequest) (ReportView, json.RawMessage, error) {
	var view ReportView
	body, err := json.Marshal(r)
	if err != nil {
		return view, nil, fmt.Errorf("encode report: %w", err)
	}
	raw, err := c.do(ctx, http.MethodPost, "reports", nil, body, &view)
	return view, raw, err
}

// Report fetches a report with its latest verdict.
func (c *Client) Report(ctx context.Context, id string) (ReportView, json.RawMessage, error) {
	var view ReportView
	raw, err := c.Get(ctx, "reports/"+url.PathEscape(id), nil, &view)
	return view, raw, err
}

func (c *Client) do(ctx context.Context, method, path string, query url.Values, body []byte, into any) (json.RawMessage, error) {
	target := *c.base
	target.RawPath = c.base.EscapedPath() + "/api/v1/" + path
	unescaped, err := url.PathUnescape(target.RawPath)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", path, err)
	}
	target.Path = unescaped
	target.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", path, err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("the answer of %s is larger than %d MiB; ask for less with --limit", c.base, maxAnswer>>20)
	}
	if resp.StatusCode >= 400 {
		var p problem
		media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if media == problemType && json.Unmarshal(raw, &p) == nil && p.Title != "" {
			return nil, &Error{Status: resp.StatusCode, Title: p.Title, Detail: p.Detail}
		}
		return nil, fmt.Errorf("%s answered %s: is that a decaf server?", c.base, resp.Status)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return nil, fmt.Errorf("%s did not answer with the JSON expected (%w): is that a decaf server of this version?", c.base, err)
	}
	return raw, nil
}

// explain says what to do about a server that could not be talked to.
func (c *Client) explain(ctx context.Context, err error) error {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no decaf server listens at %s; start one with `decaf serve` or `decaf demo`, or name another with --server or DECAF_SERVER", c.base)
	case errors.As(err, &dns):
		return fmt.Errorf("there is no host %q; name the server with --server http://host:port or DECAF_SERVER", dns.Name)
	case errors.As(err, &certificate):
		return fmt.Errorf("the certificate of %s is not trusted (%w); give its authority with --ca", c.base, certificate.Err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS; write http:// in place of https://", c.base)
	// The server looks at a certificate after the client has begun to speak (TLS 1.3),
	// which may find the connection gone before it reads why.
	case c.certified && ended(err):
		return fmt.Errorf("%s ended the connection (%w); it may not trust the certificate given with --cert", c.base, err)
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time; see whether it is up with %s/readyz, or raise --timeout", c.base, c.base)
	}
	return fmt.Errorf("cannot reach the decaf server at %s: %w; name another with --server or DECAF_SERVER", c.base, err)
}

// ended says whether the other end took the connection down.
func ended(err error) bool {
	var alert tls.AlertError
	return errors.As(err, &alert) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) ||
		strings.Contains(err.Error(), "http2: client conn could not be established")
}
