package pki

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/evenkeel/evenkeel/internal/httpserve"
)

// must gives the value, or fails the test on the error.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// serve runs exporter-toolkit's own server, under a web configuration file of
// this package, and gives its address. It answers with the caller's names.
func serve(t *testing.T, webConfig string) string {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, strings.Join(httpserve.CallerNames(r), " "))
		}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	off := false
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = web.Serve(listener, server, &web.FlagConfig{WebConfigFile: &webConfig, WebSystemdSocket: &off}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() { server.Close(); <-stopped })
	return listener.Addr().String()
}

func TestHandshake(t *testing.T) {
	ours := must(New(filepath.Join(t.TempDir(), "ours")))(t)
	theirs := must(New(t.TempDir()))(t)
	server := must(ours.Server("remediator"))(t)
	path := must(ours.WebConfig("remediator", server))(t)
	if err := web.Validate(path); err != nil {
		t.Fatalf("exporter-toolkit refuses the web configuration: %v", err)
	}
	address := serve(t, path)

	node := must(ours.Client("ip-10-1-0-1"))(t)
	stranger := must(theirs.Client("ip-10-1-0-1"))(t)
	for _, test := range []struct {
		name     string
		trusts   *Authority
		shows    Pair
		host     string // as the client calls the server
		want     string // names that the server sees
		wantFail bool
	}{
		{name: "a node proves its name", trusts: ours, shows: node, host: "127.0.0.1", want: "ip-10-1-0-1"},
		{name: "no certificate is no name", trusts: ours, host: "127.0.0.1"},
		{name: "the server is known by name too", trusts: ours, host: "remediator"},
		{name: "and as localhost", trusts: ours, host: "localhost"},
		{name: "but by no other name", trusts: ours, host: "collector", wantFail: true},
		{name: "another authority's certificate", trusts: ours, shows: stranger, host: "127.0.0.1", wantFail: true},
		{name: "a client that trusts another authority", trusts: theirs, host: "127.0.0.1", wantFail: true},
		{name: "a server's certificate is no client's", trusts: ours, shows: server, host: "127.0.0.1", wantFail: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := must(test.trusts.ClientTLS(test.shows))(t)
			config.ServerName = test.host
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			response, err := client.Get("https://" + address)
			if (err != nil) != test.wantFail {
				t.Fatalf("Get() = error %v, want error %t", err, test.wantFail)
			}
			if err != nil {
				return
			}
			defer response.Body.Close()
			body := must(io.ReadAll(response.Body))(t)
			if string(body) != test.want {
				t.Errorf("the server saw the names %q, want %q", body, test.want)
			}
		})
	}
}

// TestFiles pins the names of the files, which the demo's output shows.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	a := must(New(dir))(t)
	server := must(a.Server("remediator"))(t)
	client := must(a.Client("operator"))(t)
	got := []string{a.CAFile(), server.CertFile, server.KeyFile, client.CertFile, client.KeyFile, must(a.WebConfig("remediator", server))(t)}
	var want []string
	for _, name := range []string{"ca.crt", "remediator.crt", "remediator.key", "operator.client.crt", "operator.client.key", "remediator.web.yml"} {
		want = append(want, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files differ (-want +got):\n%s", diff)
	}
	for _, p := range []Pair{server, client} {
		if _, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
			t.Errorf("LoadX509KeyPair(%v) = %v", p, err)
		}
	}
}

func TestNamesThatAreNone(t *testing.T) {
	a := must(New(t.TempDir()))(t)
	for _, name := range []string{"", "../ca", "a/b", "a b"} {
		if _, err := a.Client(name); err == nil {
			t.Errorf("Client(%q) = no error, want one", name)
		}
		if _, err := a.Server(name); err == nil {
			t.Errorf("Server(%q) = no error, want one", name)
		}
		if _, err := a.WebConfig(name, Pair{}); err == nil {
			t.Errorf("WebConfig(%q) = no error, want one", name)
		}
	}
}
