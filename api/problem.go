package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

// Error is what a user is told when a request cannot be met: RFC 9457's
// problem details. Title names the kind of error and stays the same from one
// occurrence to the next; Detail says what is wrong with this request and
// what to do.
type Error struct {
	Status int    // HTTP status code
	Title  string // "not found"
	Detail string // "no report r-17; list them with `decaf reports`"
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Title
	}
	return e.Title + ": " + e.Detail
}

// Is makes errors.Is(err, ErrNotFound) hold for every Error of that status
// and title, whatever its detail.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Detail == "" && t.Status == e.Status && t.Title == e.Title
}

// ErrNotFound is returned, or wrapped, for a thing that is not there. Use
// NotFound to say which.
var ErrNotFound = &Error{Status: http.StatusNotFound, Title: "not found"}

// NotFound is ErrNotFound with words.
func NotFound(format string, args ...any) *Error {
	return &Error{Status: ErrNotFound.Status, Title: ErrNotFound.Title, Detail: fmt.Sprintf(format, args...)}
}

// ErrBadRequest is what errors.Is matches every BadRequest with.
var ErrBadRequest = &Error{Status: http.StatusBadRequest, Title: "bad request"}

// BadRequest is an error in what the user asked: wrong addresses, reversed
// windows, unknown parameters.
func BadRequest(format string, args ...any) *Error {
	return &Error{Status: ErrBadRequest.Status, Title: ErrBadRequest.Title, Detail: fmt.Sprintf(format, args...)}
}

// ErrUnavailable is what errors.Is matches every Unavailable with.
var ErrUnavailable = &Error{Status: http.StatusServiceUnavailable, Title: "not available"}

// Unavailable is an error that may pass: the bus is away, the evidence is
// still being read. Nothing was stored.
func Unavailable(format string, args ...any) *Error {
	return &Error{Status: ErrUnavailable.Status, Title: ErrUnavailable.Title, Detail: fmt.Sprintf(format, args...)}
}

// named gives an ErrNotFound that has no words of its own some, and leaves
// every other error as it is.
func named(err error, kind, id string) error {
	var e *Error
	if errors.As(err, &e) && e.Detail == "" && errors.Is(err, ErrNotFound) {
		return NotFound("no %s %q; `decaf %ss` lists them", kind, clip(id), kind)
	}
	return err
}

// problem is the JSON of RFC 9457; its type is the default, about:blank, so
// that title and status say all there is to the kind.
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"`
}

const problemType = "application/problem+json"

// asError finds what to tell the user about err. An error that is not ours to
// show is told as an internal one, without its words: they may hold what the
// user should not see, and are in the log.
func asError(err error) *Error {
	var e *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		if e.Status < 400 || e.Status > 599 {
			return &Error{Status: http.StatusInternalServerError, Title: e.Title, Detail: e.Detail}
		}
		return e
	case errors.As(err, &tooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Title: "request too large",
			Detail: fmt.Sprintf("the body may hold at most %d bytes", tooLarge.Limit)}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Status: http.StatusServiceUnavailable, Title: "not available",
			Detail: "the answer took too long; ask for less (limit, since, until) or try again"}
	}
	return &Error{Status: http.StatusInternalServerError, Title: "internal error",
		Detail: "the request failed on the server; its log says why"}
}

// writeProblem answers r with err.
func writeProblem(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	e := asError(err)
	if e.Status >= 500 && r.Context().Err() == nil {
		log.Error("request failed", "method", r.Method, "path", r.URL.Path, "status", e.Status, "err", err)
	}
	body, merr := json.Marshal(problem{Type: "about:blank", Title: e.Title, Status: e.Status, Detail: e.Detail, Instance: r.URL.Path})
	if merr != nil { // cannot be: strings and an int
		body = []byte(`{"type":"about:blank","title":"internal error","status":500}`)
	}
	w.Header().Set("Content-Type", problemType)
	w.Header().Set("Cache-Control", "no-store")
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(body, '\n'))
}
