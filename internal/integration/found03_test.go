package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/pgnotify"
	"github.com/go-apikey/apikey/sqlstore"
)

var mariaEncodings = []sessionSetting{
	{"charset=utf8mb4", harmless},
	{"charset=latin1", refused},
	{"charset=utf8mb3", refused},
	{"charset=ucs2", hopeless}, // the server does not take it from a client
	{"character_set_client=latin1", refused},
	{"character_set_client=gbk", refused},
	{"character_set_connection=latin1", refused},
	{"character_set_connection=utf8mb3", refused},
	{"character_set_connection=ucs2", refused},
	{"character_set_connection=binary", harmless},
	{"character_set_results=latin1", refused},
	{"character_set_results=utf8mb3", refused},
	{"character_set_results=ucs2", refused},
	{"character_set_results=NULL", harmless},
	{"character_set_results=binary", harmless},
}

// Every encoding that text passes on its way is looked at: that of what is sent,
// that to which it is converted before it is compared or stored, and that in which
// answers come.
func TestFound03EncodingsOfMariaDB(t *testing.T) {
	for _, e := range named("mariadb/prepared", "mariadb/interpolated") {
		t.Run(e.name, func(t *testing.T) {
			s := newShopWith(t, e, e.dsn(t))
			for _, c := range mariaEncodings {
				t.Run(c.params, func(t *testing.T) { s.tries(t, e.dsn(t)+"&"+c.params, c.want) })
			}
		})
	}
}

// PostgreSQL has one, and pgx takes whatever the server gives it; lib/pq asks for
// UTF8 itself. SQL_ASCII is no conversion, but pgx does not use it with
// simple_protocol.
func TestFound03EncodingsOfPostgres(t *testing.T) {
	for _, c := range []struct{ name, driver, mode string }{
		{"pgx", "pgx", ""},
		{"pgx exec", "pgx", "&default_query_exec_mode=exec"},
		{"pgx simple", "pgx", "&default_query_exec_mode=simple_protocol"},
		{"pq", "postgres", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := named("postgres/pgx")[0]
			e.driver = c.driver
			s := newShopWith(t, e, e.dsn(t))
			for _, encoding := range []string{"UTF8", "SQL_ASCII", "LATIN1", "WIN1252", "BIG5"} {
				t.Run(encoding, func(t *testing.T) {
					want := refused
					if encoding == "UTF8" || encoding == "SQL_ASCII" && c.name != "pgx simple" || c.driver == "postgres" {
						want = harmless
					}
					s.tries(t, e.dsn(t)+c.mode+"&options=-cclient_encoding%3D"+encoding, want)
				})
			}
		})
	}
}

// What ALTER ROLE has set counts as what the DSN has; set later, it counts for the
// connections that the pool opens from then on.
func TestFound03EncodingOfARole(t *testing.T) {
	const begin, end = "ALTER ROLE {user} SET client_encoding = 'LATIN1'", "ALTER ROLE {user} RESET client_encoding"
	e := named("postgres/pgx")[0]
	t.Run("later", func(t *testing.T) { notBelieved(t, e, "add client_encoding=UTF8", begin, end) })
	t.Run("before", func(t *testing.T) {
		d, prefix, admin, dsn := withRoles(t, e)
		_, err := admin.Exec(strings.ReplaceAll(begin, "{user}", prefix+"manager_user"))
		must(t, err)
		_, err = sqlstore.New(e.pool(t, dsn("manager")), d)
		wants(t, err, apikey.ErrInvalid, "client_encoding is LATIN1")
		s := newShopWith(t, e, e.dsn(t))
		set, err := sqlstore.New(e.pool(t, dsn("manager")+"&client_encoding=UTF8"), d)
		must(t, err)
		s.d, s.store = d, open(t, admin, d)
		s.m, s.v = newManager(t, s.store), newVerifier(t, s.store)
		must(t, s.through(t, set, false))
	})
}

// A channel whose name is not ASCII is the same one, whatever the encodings of the
// sessions are.
func TestFound03ChannelOfANotifier(t *testing.T) {
	e := named("postgres/pgx")[0]
	latin := e.dsn(t) + "&options=-cclient_encoding%3DLATIN1"
	for name, c := range map[string]pgnotify.Config{
		"who listens": {Listen: latin, DB: e.pool(t, e.dsn(t))},
		"who tells":   {Listen: e.dsn(t), DB: e.pool(t, latin)},
	} {
		t.Run(name, func(t *testing.T) {
			c.Channel = "Schlüssel"
			n, err := pgnotify.New(c)
			must(t, err)
			defer n.Close()
			must(t, n.Wait(t.Context())) // it listens
			must(t, n.Notify(t.Context()))
			told := make(chan error, 1)
			go func() { told <- n.Wait(t.Context()) }()
			select {
			case err := <-told:
				must(t, err)
			case <-time.After(5 * time.Second):
				t.Error("nobody was told")
			}
		})
	}
}
