package pgnotify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/go-apikey/apikey/pgnotify"
)

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		config pgnotify.Config
		want   string
	}{
		{"nothing", pgnotify.Config{}, "Config.Listen, Config.DB or both"},
		{"long channel", pgnotify.Config{Listen: "postgres://h/d", Channel: strings.Repeat("x", 64)}, "63 bytes"},
		{"no DSN", pgnotify.Config{Listen: "postgres://user:hunter2@h:nonsense/d"}, "Config.Listen"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pgnotify.New(c.config)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// If there is no server, Wait returns an error, so the Verifier polls, and the log gets
// one line about it. Close ends an attempt to connect that is running.
func TestNobodyListens(t *testing.T) {
	var log bytes.Buffer // only read after Close
	n, err := pgnotify.New(pgnotify.Config{
		Listen: "postgres://user:hunter2@127.0.0.1:1/d?connect_timeout=1",
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = n.Wait(ctx)
	if err == nil || ctx.Err() != nil || strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("Wait: %v", err)
	}
	if err := n.Notify(ctx); err == nil {
		t.Error("Notify without a DB")
	}
	time.Sleep(500 * time.Millisecond) // at least three attempts to connect
	n.Close()
	if lines := strings.Count(log.String(), "not listening, Verifiers poll"); lines != 1 || strings.Contains(log.String(), "hunter2") {
		t.Errorf("the log says %q", log.String())
	}
	if err := n.Share().Wait(ctx); err == nil || errors.Is(err, ctx.Err()) && ctx.Err() != nil {
		t.Errorf("Wait after Close: %v", err)
	}
}
