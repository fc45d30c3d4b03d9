package api

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/collector/expert"
	"github.com/evenkeel/evenkeel/internal/httpserve"
)

const post = `{"schema":1,"cluster":"c","model":"m","replica":"r0","window_seconds":10,"generation":7,"top_k":1,
 "counts":[[1]],"placement":[[[0]]],"ranks":[{"rank":0,"node":"n0","seconds":1}]}`

// intake answers every load with an error of the test's.
type intake struct {
	err     error
	got     *expert.Load
	refused []Refusal
}

func (i *intake) Accept(l *expert.Load) error { i.got = l; return i.err }
func (i *intake) Refused(r Refusal)           { i.refused = append(i.refused, r) }
func (i *intake) Replicas() ReplicaList       { return ReplicaList{Cluster: "c", Replicas: []Replica{}} }

var access = httpserve.Access{Roles: map[httpserve.Role][]string{httpserve.RolePush: {"engine"}, httpserve.RoleRead: {"operator"}}}

// call makes a request as the holder of a verified certificate; an empty name
// holds none.
func call(handler http.Handler, name, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if name != "" {
		certificate := &x509.Certificate{DNSNames: []string{name}}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}, VerifiedChains: [][]*x509.Certificate{{certificate}}}
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestRoles(t *testing.T) {
	tests := []struct {
		name, method, path string
		want               int
	}{
		{"engine", "POST", "/v1/expert-load", http.StatusNoContent},
		{"operator", "POST", "/v1/expert-load", http.StatusForbidden},
		{"", "POST", "/v1/expert-load", http.StatusUnauthorized},
		{"operator", "GET", "/v1/replicas", http.StatusOK},
		{"engine", "GET", "/v1/replicas", http.StatusForbidden},
		{"", "GET", "/v1/replicas", http.StatusUnauthorized},
		{"engine", "GET", "/v1/expert-load", http.StatusMethodNotAllowed},
	}
	for _, test := range tests {
		i := &intake{}
		w := call(New(i, i, access), test.name, test.method, test.path, post)
		if w.Code != test.want {
			t.Errorf("%s %s as %q = %d, want %d", test.method, test.path, test.name, w.Code, test.want)
		}
		if taken := i.got != nil; taken != (w.Code == http.StatusNoContent) {
			t.Errorf("%s %s as %q = %d, load taken %v", test.method, test.path, test.name, w.Code, taken)
		}
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, body string
		err        error
		status     int
		refusal    Refusal
		want       string
	}{
		{"content", strings.Replace(post, "[[1]]", "[[-1]]", 1), nil, 400, RefusedInvalid, "counts[0][0]: must be a non-negative integer"},
		{"size", post + strings.Repeat(" ", expert.MaxBodyBytes), nil, 413, RefusedTooLarge, "body is too large"},
		{"cluster", post, errors.New(`cluster: "c" is another`), 400, RefusedInvalid, "cluster"},
		{"generation", post, &StaleGeneration{Held: 9, Got: 7}, 409, RefusedGeneration, "generation: 7 is older than 9"},
		{"placement", post, ErrPlacement, 409, RefusedPlacement, "placement: differs"},
		{"room", post, ErrFull, 503, RefusedFull, "too many replicas"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i := &intake{err: test.err}
			w := call(New(i, i, access), "engine", "POST", "/v1/expert-load", test.body)
			var body struct {
				Error          string  `json:"error"`
				HeldGeneration *uint64 `json:"held_generation"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("answer %q: %v", w.Body, err)
			}
			if w.Code != test.status || !strings.Contains(body.Error, test.want) {
				t.Errorf("answer = %d %q, want %d with %q", w.Code, body.Error, test.status, test.want)
			}
			if len(i.refused) != 1 || i.refused[0] != test.refusal {
				t.Errorf("counted as %v, want %s", i.refused, test.refusal)
			}
			if (w.Code == 503) != (w.Header().Get("Retry-After") != "") {
				t.Errorf("Retry-After = %q with status %d", w.Header().Get("Retry-After"), w.Code)
			}
			if held := body.HeldGeneration; (test.refusal == RefusedGeneration) != (held != nil && *held == 9) {
				t.Errorf("held generation = %v", held)
			}
		})
	}
}
