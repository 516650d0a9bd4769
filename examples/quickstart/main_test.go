package main_test

import (
	"bytes"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-apikey/apikey"
)

const want = `shown to the merchant, once: TOKEN
payment:verify: <nil>
payment:refund: apikey: ability is missing: payment:refund
revoke: <nil>
from then on: apikey: key is revoked
`

func TestQuickstart(t *testing.T) {
	out, err := exec.Command("go", "run", ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	first, _, _ := strings.Cut(string(out), "\n")
	token := first[strings.LastIndexByte(first, ' ')+1:]
	_, err = apikey.ParseToken(token)
	require.NoError(t, err, "%s", out)
	require.Equal(t, want, strings.ReplaceAll(string(out), token, "TOKEN"))
}

// What a newcomer reads first fits on one screen.
func TestQuickstartIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.Less(t, bytes.Count(source, []byte("\n")), 40)
}

// The README shows this very program, so that what it shows runs.
func TestREADMEShowsTheProgram(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, program, ok := strings.Cut(string(source), "\npackage main")
	require.True(t, ok)
	require.Contains(t, string(readme), "package main"+program)
	head := strings.SplitAfterN(string(readme), "\n", 11)
	require.Contains(t, strings.Join(head[:10], ""), "package main", "a program begins by line 10")
}

// Whatever Go the README and docs/stores.md show compiles: whole programs, and lines
// of one.
func TestREADMEPrograms(t *testing.T) {
	var blocks []string
	for page, shown := range map[string]int{"README.md": 3, "docs/stores.md": 1} {
		text, err := os.ReadFile("../../" + page)
		require.NoError(t, err)
		found := strings.Split(string(text), "```go\n")[1:]
		require.Len(t, found, shown, page)
		blocks = append(blocks, found...)
	}
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		formatted, err := format.Source([]byte(block))
		require.NoError(t, err)
		require.Equal(t, string(formatted), block)
		program := block
		if !strings.HasPrefix(block, "package ") {
			require.Equal(t, 6, strings.Count(block, "\n"), "six lines say it")
			program = strings.Replace(around, "BLOCK", block, 1)
		}
		file := filepath.Join(t.TempDir(), "main.go")
		require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
		out, err := exec.Command("go", "vet", file).CombinedOutput() // not build: linking takes longer than all else
		require.NoError(t, err, "%s\n%s", program, out)
	}
}

// The README can be read in one sitting.
func TestREADMEIsShort(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(readme, []byte("\n")), 200)
}

// around is the program that the README's single lines stand in.
const around = `package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-apikey/apikey"
)

var (
	ctx     context.Context
	manager *apikey.Manager
	config  apikey.ManagerConfig
	key     apikey.KeyID
	old     apikey.CredentialID
	mailer  apikey.Sender
	pepper  apikey.Pepper
	typed   string
	_       = fmt.Sprint(time.Now(), apikey.Live)
)

func main() {
	var show = func(apikey.Token) {}
	_ = show
BLOCK}

func must[T any](v T, err error) T { return v }

func check(error) {}
`
