package main

import (
	"embed"
	"net/http"
)

// stylesheet is the dashboard's own look.
const stylesheet = "/app/dashboard.css"

//go:embed app
var appFiles embed.FS

// mountApp mounts a page of another framework, as it were: it has a router, a style sheet
// and rules of its own, and shows the key page as an element.
func mountApp(mux *http.ServeMux, people *signIn) {
	file := func(name, media string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Content-Type", media)
			h.Set("Cache-Control", "no-cache")
			h.Set("X-Content-Type-Options", "nosniff")
			http.ServeFileFS(w, r, appFiles, "app/"+name)
		}
	}
	page := file("page.html", "text/html; charset=utf-8")
	view := func(w http.ResponseWriter, r *http.Request) {
		if _, err := people.actor(r); err != nil {
			http.Redirect(w, r, loginURL(r, r.URL.Path), http.StatusSeeOther)
			return
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dashboard")
		page(w, r)
	}
	mux.HandleFunc("GET /app", view)
	mux.HandleFunc("GET /app/orders", view)
	mux.HandleFunc("GET /app/router.js", file("router.js", "text/javascript; charset=utf-8"))
	mux.HandleFunc("GET /app/style.css", file("style.css", "text/css; charset=utf-8"))
	mux.HandleFunc("GET "+stylesheet, file("dashboard.css", "text/css; charset=utf-8"))
}
