package main

import (
	"encoding/json"
	"errors"
	"net/http"
)

// problem is an error as the client gets it (RFC 9457), in the same form as the errors
// that httpauth writes.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

func (p problem) Error() string { return p.Code + ": " + p.Detail }

func (p problem) write(w http.ResponseWriter) {
	p.Type, p.Title = "about:blank", http.StatusText(p.Status)
	write(w, p.Status, "application/problem+json", p)
}

// refuse writes the answer for an error. If the error is not known to be the client's
// fault, it is logged, and the client gets a 500 without details.
func (a api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var p problem
	var no refusal
	switch {
	case errors.As(err, &p):
	case errors.As(err, &no) && no.code == notFound:
		p = problem{Status: 404, Code: no.code, Detail: no.text}
	case errors.As(err, &no):
		p = problem{Status: 422, Code: no.code, Detail: no.text}
	default:
		if r.Context().Err() == nil { // a client that has disconnected is not a failure of this server
			a.log.Error("request failed", "route", r.Pattern, "error", err)
		}
		p = problem{Status: 500, Code: "internal_error", Detail: "Try again."}
	}
	p.write(w)
}

func write(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // an error means that the client has disconnected
}

// withProblems gives the mux's own refusals, for an unknown path or a wrong method, the
// same form as all other refusals.
func withProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		muted := &statusOnly{header: w.Header()} // keeps the Allow header
		refuse.ServeHTTP(muted, r)
		p := problem{Status: 404, Code: notFound, Detail: "There is nothing here."}
		if muted.status == http.StatusMethodNotAllowed {
			p = problem{Status: muted.status, Code: "method_not_allowed", Detail: "The Allow header lists the methods."}
		}
		p.write(w)
	})
}

// statusOnly keeps the status and the headers of an answer, and discards its body.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }

// forBrowsers lets pages of any origin call a route (CORS) and read its refusals. The page
// sets the key in a header. There is no cookie, which a browser would also send with the
// requests of a foreign page, so allowing every origin is safe.
func forBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Methods", "POST")
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}
