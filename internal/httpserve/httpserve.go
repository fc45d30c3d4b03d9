// Package httpserve serves a daemon's HTTP and decides who may call what.
//
// Transport is exporter-toolkit's: plain HTTP, or TLS and basic auth from
// --web.config.file. Callers are known by the DNS names of a client certificate
// that the TLS layer has verified; a route states the role it needs and the
// configuration lists the names that hold it. Without a verified certificate a
// caller has no name and holds no role. The package refuses to treat everyone
// as trusted unless the daemon listens on loopback only and was told to.
package httpserve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// Role is what a route can require of its caller.
type Role string

// The roles.
const (
	// RoleRead may read the API.
	RoleRead Role = "read"
	// RoleWake may make the daemon look at its sources now.
	RoleWake Role = "wake"
	// RolePush may push measurements (expert load) to the collector.
	RolePush Role = "push"
	// RoleAdmin may use the kill switch. It includes RoleRead.
	RoleAdmin Role = "admin"
)

// Access lists the certificate names that hold each role.
type Access struct {
	// Insecure gives every caller every role and every node name. It is refused
	// unless all listen addresses are loopback.
	Insecure bool              `yaml:"insecure"`
	Roles    map[Role][]string `yaml:"roles"`
}

// Validate names unknown roles.
func (a Access) Validate() error {
	var errs []error
	for _, role := range slices.Sorted(maps.Keys(a.Roles)) {
		switch role {
		case RoleRead, RoleWake, RolePush, RoleAdmin:
		default:
			errs = append(errs, fmt.Errorf("access.roles: unknown role %q (there are %s, %s, %s, %s)", role, RoleRead, RoleWake, RolePush, RoleAdmin))
		}
	}
	return errors.Join(errs...)
}

// CheckFlags is CheckListen for a daemon's flags. It also refuses Insecure on a
// socket that systemd passes in, whose address is not known.
func (a Access) CheckFlags(flags *web.FlagConfig) error {
	if a.Insecure && flags.WebSystemdSocket != nil && *flags.WebSystemdSocket {
		return errors.New("access.insecure: refused with --web.systemd-socket, which may listen anywhere")
	}
	return a.CheckListen(*flags.WebListenAddresses)
}

// CheckListen refuses Insecure on anything but loopback addresses.
func (a Access) CheckListen(addresses []string) error {
	if !a.Insecure {
		return nil
	}
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("access.insecure: listen address %q: %w", address, err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("access.insecure: refused while listening on %q, which is not loopback", address)
		}
	}
	return nil
}

// CallerNames gives the DNS names of the caller's verified certificate; nil if
// it showed none.
func CallerNames(r *http.Request) []string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0].DNSNames
}

// IsCaller reports whether the caller proved to be the given name.
func (a Access) IsCaller(r *http.Request, name string) bool {
	return a.Insecure || slices.Contains(CallerNames(r), name)
}

// Holds reports whether the caller holds the role.
func (a Access) Holds(r *http.Request, role Role) bool {
	if a.Insecure {
		return true
	}
	allowed := a.Roles[role]
	if role == RoleRead {
		allowed = slices.Concat(allowed, a.Roles[RoleAdmin])
	}
	return slices.ContainsFunc(CallerNames(r), func(name string) bool { return slices.Contains(allowed, name) })
}

// Require lets only callers with the role through.
func (a Access) Require(role Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.Holds(r, role) {
			next.ServeHTTP(w, r)
			return
		}
		if names := CallerNames(r); len(names) > 0 {
			Error(w, http.StatusForbidden, fmt.Sprintf("%s may not: this route needs the role %q (access.roles)", strings.Join(names, ", "), role))
			return
		}
		Error(w, http.StatusUnauthorized, fmt.Sprintf("this route needs a client certificate with the role %q (access.roles)", role))
	})
}

// Error answers with a JSON body {"error": message}.
func Error(w http.ResponseWriter, status int, message string) {
	JSON(w, status, map[string]string{"error": message})
}

// JSON answers with body as JSON.
func JSON(w http.ResponseWriter, status int, body any) {
	content, err := json.Marshal(body)
	if err != nil {
		status, content = http.StatusInternalServerError, []byte(`{"error":"encode answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(content, '\n')) // the caller is gone if this fails
}

// shutdownTimeout bounds how long requests in flight may take after the end.
const shutdownTimeout = 5 * time.Second

// Serve serves handler until ctx ends, then lets requests in flight finish.
func Serve(ctx context.Context, flags *web.FlagConfig, handler http.Handler, logger *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- web.ListenAndServe(server, flags, logger) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		return fmt.Errorf("shut HTTP down: %w", err)
	}
	return nil
}
