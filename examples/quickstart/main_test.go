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
in test mode: apikey: key belongs to the other mode
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

// What a new user reads first, and pastes, is short.
func TestQuickstartIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	_, main, _ := bytes.Cut(source, []byte("\nfunc main() {\n"))
	main, _, _ = bytes.Cut(main, []byte("\n}\n"))
	require.NotEmpty(t, main)
	require.LessOrEqual(t, bytes.Count(main, []byte("\n"))+1, 30, "lines of main")
}

// The README shows exactly this program, so the code in the README works.
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

// All Go code in the README and in docs/stores.md compiles: whole programs, and parts of a
// program.
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
		out, err := exec.Command("go", "vet", file).CombinedOutput() // vet and not build, because linking takes longer than everything else
		require.NoError(t, err, "%s\n%s", program, out)
	}
}

// The README is short enough to be read at once.
func TestREADMEIsShort(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(readme, []byte("\n")), 200)
}

// around is a program into which the parts of a program in the README are put.
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
