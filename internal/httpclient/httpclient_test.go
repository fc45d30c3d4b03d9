package httpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/internal/sim/pki"
)

// secure is a server that wants a client certificate and says whose it saw.
func secure(t *testing.T, ca *pki.Authority) string {
	t.Helper()
	pair, err := ca.Server("server")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(pem)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Caller", r.TLS.PeerCertificates[0].DNSNames[0])
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func caller(t *testing.T, c *http.Client, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	return resp.Header.Get("Caller"), nil
}

// Certificates may come late, and change.
func TestCertificatesAreReadWhenNeeded(t *testing.T) {
	ca := newAuthority(t)
	url := secure(t, ca)
	dir := t.TempDir()
	files := TLS{CAFile: ca.CAFile(), CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key"), ServerName: "server"}
	client := New("test", files)

	if _, err := caller(t, client, url); err == nil || !strings.Contains(err.Error(), files.CertFile) {
		t.Errorf("call without a certificate = %v, want an error that names the missing file", err)
	}
	for _, name := range []string{"n1", "n2"} {
		pair, err := ca.Client(name)
		if err != nil {
			t.Fatal(err)
		}
		for from, to := range map[string]string{pair.CertFile: files.CertFile, pair.KeyFile: files.KeyFile} {
			content, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := caller(t, client, url); got != name || err != nil {
			t.Errorf("caller = %q, %v, want %q", got, err, name)
		}
	}
}

func TestServersAreVerified(t *testing.T) {
	ca := newAuthority(t)
	url := secure(t, ca)
	pair, err := ca.Client("n1")
	if err != nil {
		t.Fatal(err)
	}
	good := TLS{CAFile: ca.CAFile(), CertFile: pair.CertFile, KeyFile: pair.KeyFile, ServerName: "server"}
	if _, err := caller(t, New("test", good), url); err != nil {
		t.Errorf("call = %v", err)
	}
	other := good
	other.ServerName = "other"
	if _, err := caller(t, New("test", other), url); err == nil {
		t.Error("a server of another name was trusted")
	}
	stranger := good
	stranger.CAFile = newAuthority(t).CAFile()
	if _, err := caller(t, New("test", stranger), url); err == nil {
		t.Error("a server of another authority was trusted")
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var paths []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	if _, err := caller(t, New("test", TLS{}), server.URL+"/here"); err != nil {
		t.Fatal(err)
	}
	if len(paths) != 1 {
		t.Errorf("requests to %v, want one", paths)
	}
}

func TestWrapIsTriedUntilItSucceeds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	tries := 0
	client := New("test", TLS{}, func(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		if tries++; tries < 3 {
			return nil, errors.New("no credentials yet")
		}
		return next, nil
	})
	for i := range 5 {
		if _, err := caller(t, client, server.URL); (err != nil) != (i < 2) {
			t.Errorf("call %d = %v", i, err)
		}
	}
	if tries != 3 {
		t.Errorf("wrapped %d times, want 3", tries)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		tls TLS
		ok  bool
	}{{TLS{}, true}, {TLS{CAFile: "a"}, true}, {TLS{CertFile: "a", KeyFile: "b"}, true}, {TLS{CertFile: "a"}, false}, {TLS{KeyFile: "b"}, false}} {
		if err := tc.tls.Validate("x.tls"); (err == nil) != tc.ok || err != nil && !strings.Contains(err.Error(), "x.tls") {
			t.Errorf("Validate(%+v) = %v, want ok %v", tc.tls, err, tc.ok)
		}
	}
	for url, ok := range map[string]bool{
		"https://a.test/x": true, "http://127.0.0.1:9103": true,
		"": false, "a.test": false, "ftp://a.test": false, "https://": false, "https://u:secret@a.test": false, "http://a b": false, "https://u:secret@a.test:port": false,
	} {
		if err := ValidateURL("x.url", url); (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "x.url") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("ValidateURL(%q) = %v, want ok %v and nothing of a password", url, err, ok)
		}
	}
}
