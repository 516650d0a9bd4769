package pgnotify_test

import (
	"context"
	"errors"
	"fmt"
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

// Without a server Wait says that it cannot know, which has the Verifier poll;
// Close ends whatever is under way.
func TestNobodyListens(t *testing.T) {
	n, err := pgnotify.New(pgnotify.Config{Listen: "postgres://user:hunter2@127.0.0.1:1/d?connect_timeout=1"})
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
	n.Close()
	if err := n.Share().Wait(ctx); err == nil || errors.Is(err, ctx.Err()) && ctx.Err() != nil {
		t.Errorf("Wait after Close: %v", err)
	}
}
