package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed schema
var schemas embed.FS

// ErrNewerSchema: a newer version of this package has migrated the database. From
// Store.Migrate. The program need not stop: an older process that is restarted during a
// rolling deployment gets this error. Migrations only add, so this version goes on
// working. A record that needs a feature which this version does not know says so in its
// Needs, and is refused.
var ErrNewerSchema = errors.New("apikey: sqlstore: the schema is newer than this program")

// errTampered: the tables were not made by the embedded files.
var errTampered = errors.New("apikey: sqlstore: the schema was not made by this program's files")

// Migrate brings the tables to what this version needs, and does nothing if they are up
// to date. Call it when the program starts: any number of processes may do so at once;
// one of them works and the others wait. If the process stops halfway, the work is
// rolled back, or continued by the next call.
//
// If another process migrates, Migrate waits for it: ten times as long as the engine waits
// for a lock, but it does not begin to wait again after a minute. Its context can end that
// earlier.
//
// Every file of [Schema] is applied once and recorded with its checksum. If a file was
// applied with other contents, Migrate returns an error and changes nothing: somebody
// edited the schema, or two programs share these tables. A schema that is newer than
// this version is [ErrNewerSchema].
func (s *Store) Migrate(ctx context.Context) error {
	files, err := migrationsOf(s.dialect)
	if err != nil {
		return err
	}
	// Another process that migrates may hold the lock for long, while it builds an index.
	return s.retryFor(ctx, migrateTime, "migrate", func() error {
		// Most programs start with nothing to migrate. They do not wait for the lock
		// then, and need no right to create tables.
		todo, err := s.pending(ctx, s.db, files)
		if err == nil && len(todo) == 0 || err != nil && !s.engine.noTable(err) {
			return err
		}
		return s.engine.exclusively(ctx, s.db, func(c conn) error {
			if _, err := s.exec(ctx, c, s.sql.createMigrations); err != nil {
				return err
			}
			todo, err := s.pending(ctx, c, files)
			if err != nil {
				return err
			}
			for _, m := range todo {
				if err := s.migrate(ctx, c, m); err != nil {
					return fmt.Errorf("%s: %w", m.name, err)
				}
			}
			return nil
		})
	})
}

// migrateTime is how long after its begin Migrate may try again.
const migrateTime = time.Minute

// pending compares the applied migrations with the files, and returns the files that are
// not applied yet.
func (s *Store) pending(ctx context.Context, c conn, files []migration) (todo []migration, err error) {
	applied := map[int]string{}
	newest := 0
	err = s.each(ctx, c, query{sql: s.sql.migrations}, func(rows *sql.Rows) error {
		var (
			number   int
			checksum string
		)
		if err := rows.Scan(&number, &checksum); err != nil {
			return err
		}
		applied[number], newest = checksum, max(newest, number)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, m := range files {
		checksum, done := applied[m.number]
		switch {
		case !done:
			todo = append(todo, m)
		case checksum != m.checksum:
			return nil, fmt.Errorf("%w: %s was applied with other contents", errTampered, m.name)
		}
	}
	if ours := len(files); newest > ours {
		return nil, fmt.Errorf("%w: it is of number %d, this program knows %d", ErrNewerSchema, newest, ours)
	}
	return todo, nil
}

func (s *Store) migrate(ctx context.Context, c conn, m migration) error {
	for _, statement := range m.statements() { // the prefix is already in the names
		if _, err := c.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	_, err := s.exec(ctx, c, s.sql.insertMigration, m.number, m.name, m.checksum, at(time.Now()))
	return err
}

// migration is one file of the schema.
type migration struct {
	number   int // 1, 2, 3 …
	name     string
	text     string
	checksum string // SHA-256, hexadecimal
}

// migrationsOf reads a dialect's files in their order.
func migrationsOf(d Dialect) ([]migration, error) {
	files := Schema(d)
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, entry := range entries {
		text, err := fs.ReadFile(files, entry.Name())
		if err != nil {
			return nil, err
		}
		digits, _, _ := strings.Cut(entry.Name(), "_")
		number, err := strconv.Atoi(digits)
		if err != nil || number != i+1 {
			return nil, fmt.Errorf("apikey: sqlstore: schema file %s is not number %d", entry.Name(), i+1)
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{number, entry.Name(), string(text), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// statements splits the file, because not every driver runs several statements in one
// call. A statement ends with a ';' at the end of a line; no file has a ';' at the end of
// a line elsewhere.
func (m migration) statements() (all []string) {
	var b strings.Builder
	for line := range strings.Lines(m.text) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			all = append(all, strings.TrimSpace(b.String()))
			b.Reset()
		}
	}
	return all
}

// Schema returns the files that [Store.Migrate] applies, numbered, with the table names
// of the dialect's prefix. goose, golang-migrate and atlas take them as they are. No
// file has a down migration, because it would drop every key.
func Schema(d Dialect) fs.FS { return schema{d} }

type schema struct{ dialect Dialect }

// Open implements [fs.FS].
func (s schema) Open(name string) (fs.File, error) {
	if err := s.dialect.validate(); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	file, err := schemas.Open(path.Join("schema", s.dialect.engine.name(), name))
	if err != nil || s.dialect.prefix == defaultPrefix {
		return file, err
	}
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		return file, err
	}
	defer file.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(file); err != nil {
		return nil, err
	}
	renamed := s.dialect.named(text.String())
	return &schemaFile{strings.NewReader(renamed), info}, nil
}

// schemaFile is a file whose tables have another prefix.
type schemaFile struct {
	*strings.Reader
	info fs.FileInfo
}

func (f *schemaFile) Close() error               { return nil }
func (f *schemaFile) Stat() (fs.FileInfo, error) { return sizedInfo{f.info, f.Reader.Size()}, nil }

type sizedInfo struct {
	fs.FileInfo
	size int64
}

func (i sizedInfo) Size() int64 { return i.size }
