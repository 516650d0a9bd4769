package keypage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"path"
	"strings"
)

//go:embed templates
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// templates are those of the screens, by name. A screen has what layout.html defines, and
// the content of its own file.
var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	all := map[string]*template.Template{}
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // they are embedded
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".html"); ok && name != "layout" {
			all[name] = template.Must(template.ParseFS(templateFiles, "templates/layout.html", "templates/"+f.Name()))
		}
	}
	return all
}

// assets are the style sheet and the script.
type assets struct {
	files   map[string][]byte
	version string // a hash of all, which is in their paths
}

func readAssets() assets {
	a := assets{files: map[string][]byte{}}
	sum := sha256.New()
	for _, name := range []string{"page.css", "page.js"} {
		text, err := staticFiles.ReadFile("static/" + name)
		if err != nil {
			panic(err) // they are embedded
		}
		a.files[name] = text
		sum.Write(text)
	}
	a.version = hex.EncodeToString(sum.Sum(nil)[:8])
	// A host loads the script by a name without a version, and the script says which it is.
	a.files["page.js"] = bytes.Replace(a.files["page.js"], []byte("'VERSION'"), []byte("'"+a.version+"'"), 1)
	return a
}

// serve answers VERSION/page.css, which never changes, and page.js without a version, for
// a host that embeds the page. Another version is not found: a node that still has the old
// program must not pin old bytes under a new name.
func (a assets) serve(w http.ResponseWriter, r *http.Request, name string) {
	version, file := path.Split(name)
	text, ok := a.files[file]
	if !ok || version != a.version+"/" && version != "" || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Content-Type", map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}[path.Ext(file)])
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if version == "" {
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", `"`+a.version+`"`)
		if strings.Contains(r.Header.Get("If-None-Match"), `"`+a.version+`"`) { // perhaps with W/, which proxies add
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	w.Write(text)
}
