package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/go-apikey/apikey"
)

// openFiles makes sure that database and pepper are there and belong together
// as far as their files tell. A new database gets a new pepper; for an old one
// a new pepper would be of no use.
func openFiles(c config) (apikey.Pepper, error) {
	flags, hint := os.O_RDWR|os.O_CREATE, "name a file that can be written with -db"
	if c.issue != 0 {
		flags, hint = os.O_RDWR, "start once without -issue, or name the database with -db"
	}
	f, err := os.OpenFile(c.db, flags, 0o600) // hashes are in it
	if err != nil {
		return apikey.Pepper{}, fmt.Errorf("database: %w: %s", err, hint)
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return apikey.Pepper{}, fmt.Errorf("database: %w", err)
	}
	if info.Size() == 0 {
		if err := makePepper(c.pepperFile); err != nil && !errors.Is(err, fs.ErrExist) {
			return apikey.Pepper{}, fmt.Errorf("pepper: %w: name a place that can be written with -pepper-file", err)
		}
	}
	return readPepper(c)
}

// makePepper writes 32 random bytes to a file that did not exist. The name is
// given when the contents are complete and on disk, so that neither a crash nor
// a second gateway that starts now finds half a pepper.
func makePepper(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".pepper-*") // O_EXCL, 0600
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
	return os.Link(f.Name(), path) // unlike Rename it replaces nothing
}

func readPepper(c config) (apikey.Pepper, error) {
	text, err := os.ReadFile(c.pepperFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return apikey.Pepper{}, fmt.Errorf("%s is missing, and no key of %s verifies without it: put it back, or name it with -pepper-file, or remove the database to begin anew", c.pepperFile, c.db)
	case err != nil:
		return apikey.Pepper{}, fmt.Errorf("pepper: %w", err)
	}
	info, err := os.Stat(c.pepperFile)
	switch {
	case err != nil:
		return apikey.Pepper{}, fmt.Errorf("pepper: %w", err)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0: // Windows has no such bits
		return apikey.Pepper{}, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it, and if somebody may have read it, begin anew", c.pepperFile, info.Mode().Perm())
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != 32 {
		return apikey.Pepper{}, fmt.Errorf("%s is not a pepper file (one line of 64 hexadecimal digits): put the right file there, or name it with -pepper-file", c.pepperFile)
	}
	return apikey.NewPepper(1, [32]byte(key))
}
