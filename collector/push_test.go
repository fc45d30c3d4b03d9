package collector

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// With remote_write.url set, what is exported is pushed too, and the end of the
// collector leaves nothing open.
func TestPushes(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	got := make(chan *http.Request, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case got <- r:
		default:
		}
	}))
	defer receiver.Close()
	config := DefaultConfig()
	config.Cluster = "c"
	config.RemoteWrite.URL = receiver.URL
	config.RemoteWrite.Spool.Path = t.TempDir()
	c, err := New(&config, prometheus.NewRegistry(), "1.2.3", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case r := <-got:
		if agent := r.Header.Get("User-Agent"); agent != "evenkeel-collector/1.2.3" {
			t.Errorf("pushed by %q", agent)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing was pushed within 20 s")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v", err)
	}
}
