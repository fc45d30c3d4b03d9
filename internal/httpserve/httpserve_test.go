package httpserve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// as gives a request of a caller whose certificate, verified or not, carries
// the names; none without names.
func as(verified bool, names ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.TLS = &tls.ConnectionState{}
	if len(names) > 0 {
		certificate := &x509.Certificate{DNSNames: names}
		r.TLS.PeerCertificates = []*x509.Certificate{certificate}
		if verified {
			r.TLS.VerifiedChains = [][]*x509.Certificate{{certificate}}
		}
	}
	return r
}

func TestHolds(t *testing.T) {
	roles := map[Role][]string{RoleRead: {"collector"}, RoleWake: {"alertmanager"}, RoleAdmin: {"operator"}}
	plain := httptest.NewRequest(http.MethodGet, "/", nil) // no TLS at all
	for _, test := range []struct {
		name    string
		request *http.Request
		role    Role
		want    bool
	}{
		{"reader reads", as(true, "collector"), RoleRead, true},
		{"reader administers", as(true, "collector"), RoleAdmin, false},
		{"admin administers", as(true, "operator"), RoleAdmin, true},
		{"admin reads", as(true, "operator"), RoleRead, true},
		{"admin wakes", as(true, "operator"), RoleWake, false},
		{"waker wakes", as(true, "alertmanager"), RoleWake, true},
		{"nobody holds a role without names", as(true, "engine"), RolePush, false},
		{"any of several names", as(true, "host.example.com", "collector"), RoleRead, true},
		{"name in another case", as(true, "Collector"), RoleRead, false},
		{"longer name", as(true, "collector.example.com"), RoleRead, false},
		{"wildcard", as(true, "*"), RoleRead, false},
		{"certificate that was not verified", as(false, "operator"), RoleRead, false},
		{"no certificate", as(true), RoleRead, false},
		{"no TLS", plain, RoleRead, false},
	} {
		if got := (Access{Roles: roles}).Holds(test.request, test.role); got != test.want {
			t.Errorf("%s: Holds(%s) = %v, want %v", test.name, test.role, got, test.want)
		}
		if got := (Access{Roles: roles, Insecure: true}).Holds(test.request, test.role); !got {
			t.Errorf("%s: Holds(%s) = false under insecure, want true", test.name, test.role)
		}
	}
}

func TestIsCaller(t *testing.T) {
	for _, test := range []struct {
		name    string
		request *http.Request
		want    bool
	}{
		{"the node itself", as(true, "n1"), true},
		{"another node", as(true, "n2"), false},
		{"not verified", as(false, "n1"), false},
		{"no certificate", as(true), false},
	} {
		if got := (Access{}).IsCaller(test.request, "n1"); got != test.want {
			t.Errorf("%s: IsCaller(n1) = %v, want %v", test.name, got, test.want)
		}
	}
	if (Access{}).IsCaller(as(true), "") {
		t.Error("IsCaller(\"\") without a certificate = true, want false")
	}
}

func TestRequireTellsStrangersFromTheUnprivileged(t *testing.T) {
	h := Access{Roles: map[Role][]string{RoleRead: {"collector"}}}.Require(RoleRead, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	for _, test := range []struct {
		request *http.Request
		want    int
	}{
		{as(true, "collector"), http.StatusNoContent},
		{as(true, "engine"), http.StatusForbidden},
		{as(true), http.StatusUnauthorized},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, test.request)
		if w.Code != test.want {
			t.Errorf("caller %v gets %d, want %d", CallerNames(test.request), w.Code, test.want)
		}
	}
}

func TestCheckFlags(t *testing.T) {
	for _, test := range []struct {
		addresses []string
		systemd   bool
		want      bool
	}{
		{[]string{"127.0.0.1:9103"}, false, true},
		{[]string{"localhost:9103", "[::1]:9103"}, false, true},
		{[]string{":9103"}, false, false},
		{[]string{"0.0.0.0:9103"}, false, false},
		{[]string{"127.0.0.1:9103", "10.0.0.1:9103"}, false, false},
		{[]string{"localhost.example.com:9103"}, false, false},
		{[]string{"vsock://:9103"}, false, false},
		{[]string{"127.0.0.1"}, false, false},
		{[]string{"127.0.0.1:9103"}, true, false},
	} {
		flags := &web.FlagConfig{WebListenAddresses: &test.addresses, WebSystemdSocket: &test.systemd}
		if err := (Access{Insecure: true}).CheckFlags(flags); (err == nil) != test.want {
			t.Errorf("insecure: CheckFlags(%v, systemd %v) = %v, want allowed %v", test.addresses, test.systemd, err, test.want)
		}
		if err := (Access{}).CheckFlags(flags); err != nil {
			t.Errorf("secure: CheckFlags(%v) = %v, want nil", test.addresses, err)
		}
	}
}

func TestValidateNamesTheRole(t *testing.T) {
	if err := (Access{Roles: map[Role][]string{RoleRead: {"a"}, RoleAdmin: nil}}).Validate(); err != nil {
		t.Errorf("Validate() = %v, want nil", err)
	}
	err := Access{Roles: map[Role][]string{"root": {"a"}}}.Validate()
	if err == nil || !strings.Contains(err.Error(), `access.roles: unknown role "root"`) {
		t.Errorf("Validate() = %v, want the unknown role by name", err)
	}
}

func TestJSONThatCannotBeEncoded(t *testing.T) {
	w := httptest.NewRecorder()
	JSON(w, http.StatusOK, func() {})
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "error") {
		t.Errorf("JSON(func) = %d %s, want 500 with an error", w.Code, w.Body)
	}
}

// TestServeFinishesRequests ends the daemon while a request is being answered.
func TestServeFinishesRequests(t *testing.T) {
	address := freeAddress(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began, finish := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "whole")
	})
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, flags(address), handler, slog.New(slog.DiscardHandler)) }()

	answered := make(chan string, 1)
	go func() {
		answered <- get(t.Context(), "http://"+address)
	}()
	<-began
	stop()
	close(finish)
	if got := <-answered; got != "whole" {
		t.Errorf("the request in flight got %q, want its whole answer", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v, want nil after the end of its context", err)
	}
}

func TestServeSaysWhyItCannot(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := Serve(t.Context(), flags(taken.Addr().String()), http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("Serve() on an address in use = nil, want an error")
	}
}

func flags(address string) *web.FlagConfig {
	systemd, file := false, ""
	return &web.FlagConfig{WebListenAddresses: &[]string{address}, WebSystemdSocket: &systemd, WebConfigFile: &file}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// get asks until the server is there, and gives the body or the error.
func get(ctx context.Context, url string) string {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err.Error()
		}
		res, err := http.DefaultClient.Do(req)
		if _, refused := errors.AsType[*net.OpError](err); refused && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
}
