// Package keypage is the page on which the members of an account manage their API keys: list
// and search, create, edit, suspend, reveal, regenerate now or later, revoke one or many,
// and read the activity log. It asks for an approval where StepUp does. Mount it in the
// program's own dashboard:
//
//	page, err := keypage.New(keypage.Config{Manager: manager, Actor: signedIn, Path: "/settings/keys"})
//	mux.Handle("/settings/keys", page)
//	mux.Handle("/settings/keys/", page)
//
// It is made of full pages, which work without scripts; a script makes dialogs of them. It
// needs no build, no other service and no database of its own.
//
// What a person may do is asked of the Manager (its Policy, StepUp, Catalog and limits), and
// is not configured a second time. Buttons that would be refused are not shown.
package keypage

import (
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/admin"
	"github.com/go-apikey/apikey/admin/internal/door"
)

// Config configures [New]. Manager, Actor and Path are required.
type Config struct {
	// Manager makes the changes.
	Manager *apikey.Manager
	// Actor says who is signed in, as in [admin.Config]: [admin.ErrSignIn] if nobody is.
	// Operators are refused.
	Actor func(*http.Request) (apikey.Actor, error)
	// Path is where the page is, as the browser sees it: "/settings/keys".
	Path string
	// Mount is where the server sees it. It differs from Path behind a proxy that strips a
	// prefix. Empty: Path.
	Mount string
	// SignIn returns the URL to sign in at. back is a path of this site, to return to.
	// Nil: the page says that one has to sign in, without a link.
	SignIn func(r *http.Request, back string) string
	// Who names the person who is signed in, for the header. Nil: the actor's ID.
	Who func(apikey.Actor) string
	// People names somebody in the log by their actor ID. Nil: the ID.
	People func(actorID string) string
	// Header and Footer stand before and after the page's own content, inside body: the
	// frame of a dashboard that is rendered on the server. They are executed without data.
	Header, Footer *template.Template
	// Language returns the language of a request: "en", "id" or "bn". Nil, and for what it
	// does not know: by the header Accept-Language, else English.
	Language func(*http.Request) string
	// Zone is the time zone of an account, in which its people read and write days. The
	// zone of a browser is not used: two people would see two expiries. Nil: UTC.
	Zone func(apikey.Actor) *time.Location
	// Messages holds files like admin/keypage/text/en.json that replace texts or add
	// languages. A text with other placeholders than ours is an error of New.
	Messages fs.FS
	// Stylesheet is the URL, on this site, of a style sheet that is loaded after the page's
	// own. To change colours, set its custom properties --ak-accent and the others.
	Stylesheet string
	// Layout is how the list is arranged.
	Layout Layout
	// Recoverable says whether the keys that are created here can be revealed later.
	Recoverable Recoverable
	// Fields are what the forms ask for besides name, abilities and expiry. Nil: nothing.
	Fields []Field
	// Metadata names the metadata that the forms show, and that people may change. Other
	// metadata is the program's own. A text "metadata.NAME" in Messages is its label.
	Metadata []string
	// ClientID returns what is shown as the client ID of a key. Nil: the key's ID.
	ClientID func(apikey.Info) string
	// Endpoints and PublicKeys are the program's own, to be copied from the page.
	Endpoints  []Endpoint
	PublicKeys []PublicKey
	// Terms have to be agreed to before a key is regenerated. A zero one: nothing is asked.
	Terms Terms
	// Hide leaves out the buttons of these actions. It hides only: what is allowed is for
	// the Policy.
	Hide []apikey.Action
	// FrameAncestors are the origins that may show the page in a frame. Empty: none.
	FrameAncestors []string
	// Origins are those of the pages that may send changes, as in [admin.Config]. Empty:
	// that of the host of the request.
	Origins []string
	// Now is Settings.Now. Nil: [time.Now].
	Now func() time.Time
	// Logger gets what the page does not show: the causes of failures, with the ID of the
	// request. Nil: nothing is logged.
	Logger *slog.Logger
}

// Layout is how the list of keys is arranged.
type Layout int

const (
	// OneList is a table of all keys of a mode.
	OneList Layout = iota
	// ByProduct is a region for each product of the Catalog, with the keys for it.
	ByProduct
	// SinglePair is one key for each mode: an ID, and a secret that can be reset.
	SinglePair
)

// Recoverable says whether keys that are created on the page can be revealed later.
type Recoverable int

const (
	// Never: the secret key is shown once.
	Never Recoverable = iota
	// Always: the secret key can be revealed again, with an approval.
	Always
	// Ask: the person chooses for each key.
	Ask
)

// Endpoint is a URL of the program's API.
type Endpoint struct {
	Name, Description, URL string
}

// PublicKey is a public key of the program, such as the one that signs its notifications.
type PublicKey struct {
	Name, Text string
}

// Terms are conditions to agree to.
type Terms struct {
	Version string // for OnAgree; a new version is asked anew
	URL     string
	// OnAgree records that the actor has agreed. It is called before the change and may be
	// called twice; its error refuses the change. Nil: nothing is recorded.
	OnAgree func(r *http.Request, a apikey.Actor, version string) error
}

// New returns the page. Its error says which field of c to change.
func New(c Config) (http.Handler, error) {
	switch {
	case c.Manager == nil:
		return nil, errors.New("keypage: Config.Manager is required")
	case c.Actor == nil:
		return nil, errors.New("keypage: Config.Actor is required: it says who is signed in")
	case !strings.HasPrefix(c.Path, "/"):
		return nil, fmt.Errorf("keypage: Config.Path is %q: write where the page is, as the browser sees it, such as /settings/keys", c.Path)
	case c.Mount != "" && !strings.HasPrefix(c.Mount, "/"):
		return nil, fmt.Errorf("keypage: Config.Mount is %q: it begins with /", c.Mount)
	}
	if c.Mount == "" {
		c.Mount = c.Path
	}
	for name, path := range map[string]string{"Path": c.Path, "Mount": c.Mount} {
		if (&url.URL{Path: path}).EscapedPath() != path || strings.Contains(path, "//") || strings.Contains(path, "/.") {
			return nil, fmt.Errorf("keypage: Config.%s is %q: write it without characters that an address escapes, and without // or a part that begins with a dot", name, path)
		}
	}
	c.Path, c.Mount = strings.TrimRight(c.Path, "/"), strings.TrimRight(c.Mount, "/")
	for field, list := range map[string][]string{"Config.Origins": c.Origins, "Config.FrameAncestors": c.FrameAncestors} {
		if err := door.ValidOrigins(field, list); err != nil {
			return nil, fmt.Errorf("keypage: %w", err)
		}
	}
	if u, err := url.Parse(c.Stylesheet); err != nil || u.Host != "" || u.Scheme != "" {
		return nil, fmt.Errorf("keypage: Config.Stylesheet is %q: it has to be on this site, such as /static/keys.css", c.Stylesheet)
	}
	if err := validFields(c); err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	languages, err := readLanguages(c.Messages)
	if err != nil {
		return nil, fmt.Errorf("keypage: Config.Messages: %w", err)
	}
	h := &handler{
		Config: c, rules: c.Manager.Rules(), languages: languages, assets: readAssets(),
		door: door.Door{Actor: c.Actor, SignIn: admin.ErrSignIn, Origins: c.Origins, Framed: len(c.FrameAncestors) > 0, Logger: c.Logger},
	}
	if c.Recoverable != Never && len(h.rules.Recoverable) == 0 {
		return nil, errors.New("keypage: Config.Recoverable is set, but the Manager can reveal no key: give it ManagerConfig.KEKs, and a StepUp that guards ActionReveal")
	}
	h.mux = h.routes()
	return h, nil
}
