package integration

import (
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
)

// surface are the public functions in which a call of the driver has failed: what
// stood on the stack when it did, so that no list can claim it.
type surface map[string]bool

const module = "github.com/go-apikey/apikey"

// look adds those that are on the stack now.
func (s surface) look() {
	pc := make([]uintptr, 100)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		name, ours := strings.CutPrefix(f.Function, module+".")
		if !ours {
			name, ours = strings.CutPrefix(f.Function, module+"/sqlstore.")
		}
		if ours {
			s.add(strings.NewReplacer("(*", "", ")", "").Replace(name))
		}
	}
}

func (s surface) add(names ...string) {
	for _, name := range names {
		s[name] = true
	}
}

// without says why a public method is in no operation.
var without = map[string]string{
	"Manager.Close":       "it asks no store; Verifier.Close does",
	"Manager.NewVerifier": "its only call is that of Verifier.Sync, in a goroutine of its own; an operation has it",
	"Manager.Tx":          "it asks no store; its methods do",
	"Manager.Rules":       "it asks no store",
	"Manager.May":         "it asks no store",
	"Tx.Committed":        "with a store that fails it is TestFound06CommittedWithoutAStore; here nobody listens",
	"Store.In":            "it asks no store",
	"Store.Migrate":       "killed at every statement by TestMigrateKilledAtEveryCall",

	"Store.InTransaction": "it asks no store",
	"Store.PurgeDaily":    "it calls Purge, until that succeeds",
	"Verifier.Mode":       "it asks no store",
}

// complete fails the test for a public method, or a constructor, in which no call
// has failed, and for an excuse that is none.
func (s surface) complete(t *testing.T) {
	t.Helper()
	names := []string{"NewManager", "NewVerifier"}
	for _, of := range []reflect.Type{reflect.TypeFor[*apikey.Manager](), reflect.TypeFor[*apikey.Tx](), reflect.TypeFor[*apikey.Verifier](), reflect.TypeFor[*sqlstore.Store]()} {
		for i := range of.NumMethod() {
			names = append(names, of.Elem().Name()+"."+of.Method(i).Name)
		}
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
		switch excuse := without[name]; {
		case excuse == "" && !s[name]:
			t.Errorf("%s: no call of it has failed: an operation is missing", name)
		case excuse != "" && s[name]:
			t.Errorf("%s: calls of it have failed, so it needs no excuse (%s)", name, excuse)
		}
	}
	for name := range without {
		if !known[name] {
			t.Errorf("%s: there is no such method", name)
		}
	}
}
