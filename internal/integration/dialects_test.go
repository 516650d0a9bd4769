package integration

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey"
	"github.com/go-apikey/apikey/sqlstore"
	"github.com/go-apikey/apikey/storetest"
)

// named are the engines of these names.
func named(names ...string) (found []engine) {
	for _, name := range names {
		for _, e := range engines {
			if e.name == name {
				found = append(found, e)
			}
		}
	}
	return found
}

// servers are one driver of each engine that is a server.
func servers() []engine { return named("postgres/pgx", "mariadb/interpolated") }

var epoch = time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC)

// newRecord is a key with two credentials, at Version 1.
func newRecord(account string) apikey.StoreRecord {
	r := apikey.StoreRecord{ID: storetest.NewKeyID(), Account: account, Name: "a key", Mode: apikey.Live, Kind: apikey.Secret, Version: 1, CreatedAt: epoch}
	for range 2 {
		r.Credentials = append(r.Credentials, apikey.StoreCredential{ID: storetest.NewCredentialID(), Hash: "hash-1", Sealed: []byte("sealed-1"), SealedKEK: "kek-1"})
	}
	return r
}

// change writes r, with its event.
func change(r apikey.StoreRecord) apikey.StoreChange {
	id := [16]byte(storetest.NewKeyID())
	return apikey.StoreChange{ID: id, Record: &r, Event: &apikey.StoreEvent{
		ID: id, Time: epoch, Account: r.Account, Mode: r.Mode, Key: r.ID, Seq: r.Version, Actor: "ann", Action: apikey.ActionUpdate, Body: []byte("body"),
	}}
}

func next(r apikey.StoreRecord) apikey.StoreRecord {
	r.Version++
	return r
}

func create(t testing.TB, s apikey.Store) apikey.StoreRecord {
	t.Helper()
	r := newRecord("m1")
	must(t, s.Apply(context.Background(), change(r)))
	return r
}

func wants(t testing.TB, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one that is %v and says %q", err, want, text)
	}
}

// A database that is opened in a way that loses something is refused, with what
// to write into the DSN.
func TestNewRefusesMariaDB(t *testing.T) {
	s := oneMariaDB.get(t)
	for _, c := range []struct{ name, params, want string }{
		{"recommended", "?parseTime=true&loc=UTC&interpolateParams=true", ""},
		{"prepared", "?parseTime=true&loc=UTC", ""},
		{"strict by the DSN", "?parseTime=true&loc=UTC&sql_mode=%27STRICT_ALL_TABLES%27", ""},
		{"no database", "?parseTime=true&loc=UTC", "names no database"},
		{"no parseTime", "?loc=UTC", "add parseTime=true&loc=UTC"},
		{"another zone", "?parseTime=true&loc=Asia%2FJakarta", "add loc=UTC"},
		{"a zone that is UTC in winter", "?parseTime=true&loc=Europe%2FLondon", "add loc=UTC"},
		{"not strict", "?parseTime=true&loc=UTC&sql_mode=%27%27", "sql_mode is not strict"},
		{"latin1", "?parseTime=true&loc=UTC&charset=latin1", "character set is latin1"},
		{"three bytes", "?parseTime=true&loc=UTC&charset=utf8mb3", "character set is utf8mb3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			database := "shop"
			if c.name == "no database" {
				database = ""
			}
			db, err := sql.Open("mysql", s.mysqlServer()+database+c.params)
			must(t, err)
			defer db.Close()
			_, err = sqlstore.New(db, sqlstore.MySQL)
			if c.want == "" {
				must(t, err)
			} else {
				wants(t, err, apikey.ErrInvalid, c.want)
			}
			if n := db.Stats().InUse; n != 0 {
				t.Errorf("%d connections were kept", n)
			}
		})
	}
}

func TestNewRefusesPostgres(t *testing.T) {
	s := onePostgres.get(t)
	admin, err := sql.Open("pgx", s.postgresDSN(""))
	must(t, err)
	defer admin.Close()
	_, err = admin.Exec("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	must(t, err)
	defer admin.Exec("DROP DATABASE latin")
	for _, c := range []struct{ name, dsn, want string }{
		{"encoding", strings.Replace(s.postgresDSN(""), "/postgres?", "/latin?", 1), "ENCODING 'UTF8'"},
		{"backslashes", s.postgresDSN("&options=-cstandard_conforming_strings%3Doff"), "standard_conforming_strings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open("pgx", c.dsn)
			must(t, err)
			defer db.Close()
			_, err = sqlstore.New(db, sqlstore.Postgres)
			wants(t, err, apikey.ErrInvalid, c.want)
		})
	}
}

// The zero of the two times that lists are ordered by is the year 1, which comes
// back as it; MariaDB's driver has another meaning for it.
func TestZeroTimesThatOrder(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			s, _ := e.migrated(t)
			r := newRecord("m1")
			r.CreatedAt = time.Time{}
			ch := change(r)
			ch.Event.Time = time.Time{}
			must(t, s.Apply(t.Context(), ch))
			create(t, s)
			page, err := s.List(t.Context(), apikey.StoreFilter{Limit: 1})
			must(t, err)
			page, err = s.List(t.Context(), apikey.StoreFilter{After: page.Next})
			must(t, err)
			log, err := s.Events(t.Context(), apikey.StoreEventFilter{Key: r.ID})
			must(t, err)
			if len(page.Records) != 1 || !page.Records[0].CreatedAt.IsZero() || !log.Events[0].Time.IsZero() {
				t.Errorf("%v, %v", page.Records, log.Events)
			}
		})
	}
}
