package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-apikey/apikey"
)

// openFiles makes sure that the files of the database, the pepper and the KEK exist, and
// reads the pepper and the KEK. A new database gets a new pepper. For an existing database
// it never makes a pepper, because keys that were made with another pepper would not
// verify. A KEK is made wherever it is missing: without the one that sealed a token, that
// token cannot be shown again, and everything else works.
func openFiles(c config) ([]apikey.Pepper, []apikey.KEK, error) {
	flags, hint := os.O_RDWR|os.O_CREATE, "name a file that can be written with -db"
	if c.issue != 0 {
		flags, hint = os.O_RDWR, "start once without -issue, or name the database with -db"
	}
	f, err := os.OpenFile(c.db, flags, 0o600) // the database contains hashes, so it is private
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w: %s", err, hint)
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	if info.Size() == 0 {
		if err := makeSecret(c.pepperFile); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, nil, fmt.Errorf("pepper: %w: name a place that can be written with -pepper-file", err)
		}
	}
	peppers, err := readPeppers(c)
	if err != nil {
		return nil, nil, err
	}
	if err := makeSecret(c.kekFile); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("KEK: %w: name a place that can be written with -kek-file", err)
	}
	text, err := apikey.ReadSecretFile(c.kekFile)
	if err != nil {
		return nil, nil, fmt.Errorf("KEK: %w", err)
	}
	keks, err := apikey.ParseKEKs(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is not a KEK file (name another with -kek-file): %w", c.kekFile, err)
	}
	return peppers, keks, nil
}

// makeSecret writes 32 random bytes to a new file. The file gets its name only when its
// contents are complete and on disk. So after a crash, or if a second gateway starts at
// the same time, nobody can read half a secret.
func makeSecret(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".secret-*") // O_EXCL, 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	var key [32]byte
	rand.Read(key[:])
	_, err = fmt.Fprintln(f, hex.EncodeToString(key[:]))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike Rename, Link does not replace an existing file
}

// readPeppers reads one pepper, or several while one is being replaced.
func readPeppers(c config) ([]apikey.Pepper, error) {
	text, err := apikey.ReadSecretFile(c.pepperFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is missing, and no key of %s verifies without it: put it back, or name it with -pepper-file, or remove the database to begin anew", c.pepperFile, c.db)
	case err != nil:
		return nil, fmt.Errorf("pepper: %w", err)
	}
	peppers, err := apikey.ParsePeppers(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not the pepper file of %s (name another with -pepper-file): %w", c.pepperFile, c.db, err)
	}
	return peppers, nil
}
