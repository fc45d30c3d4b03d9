// Package api is the remediator's HTTP interface: nodes report, Alertmanager
// wakes, people and the collector read, and operators hold back or approve.
//
// It decides who may do what (docs/access.md has the table): a report is taken
// from the node that it speaks for and from nobody else, whatever other role the
// caller holds; every other route under /v1 needs a role. It refuses bodies that
// are too large to be honest, and requests that a web page of another origin
// makes with a person's certificate.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpserve"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/ingest"
)

// Bounds on bodies other than reports, in bytes.
const (
	maxControlBody = 64 << 10
	maxWakeBody    = 1 << 20 // a webhook of Alertmanager with a large group
)

// Reports takes the nodes' reports.
type Reports interface {
	// Accept fails with ingest.ErrOtherCluster, *ingest.StaleError or ingest.ErrFull.
	Accept(*fault.NodeReport) error
	// Refused counts a report that was refused before Accept.
	Refused(reason string)
}

// Incidents is what can be read of incidents.
type Incidents interface {
	Incidents() []incident.Incident
	Incident(id string) (incident.Incident, bool)
	Holds() []incident.HoldView
}

// Controls is what people can do. The name of who did it goes into the journal.
type Controls interface {
	KillSwitch() incident.KillSwitch
	SetKillSwitch(ctx context.Context, by, reason string) error
	ClearKillSwitch(ctx context.Context, by string) error
	// Approve fails with incident.ErrNotFound or incident.ErrNotWaiting.
	Approve(ctx context.Context, id, by string) error
}

// Options is what the interface stands before. Every field is required.
type Options struct {
	Access    httpserve.Access
	Reports   Reports
	Incidents Incidents
	Controls  Controls
	Nodes     func() fault.NodeList
	// Wake makes the remediator look at its sources now; it does not wait.
	Wake func()
	// Ready says why the remediator does not do its work yet, nil if it does.
	Ready    func() error
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
}

type server struct{ Options }

// New gives the handler of all routes.
func New(o Options) (http.Handler, error) {
	s := server{o}
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        "evenkeel-remediator",
		Description: "Decides, guards, replaces and resumes, and remembers what it did.",
		Version:     version.Info(),
		Links: []web.LandingLinks{
			{Address: "/metrics", Text: "Metrics"},
			{Address: "/v1/nodes", Text: "Nodes", Description: "what is known of each node (role read)"},
			{Address: "/v1/incidents", Text: "Incidents", Description: "open and closed, newest first (role read)"},
			{Address: "/v1/holds", Text: "Holds", Description: "what stands in the way of open incidents (role read)"},
			{Address: "/v1/kill-switch", Text: "Kill switch", Description: "GET (role read), PUT and DELETE (role admin)"},
			{Address: "/-/ready", Text: "Readiness"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("landing page: %w", err)
	}
	mux := http.NewServeMux()
	for _, r := range s.routes(landing) {
		var h http.Handler = r.handler
		if r.role != open {
			h = o.Access.Require(r.role, h)
		}
		mux.Handle(r.pattern, h)
	}
	return http.NewCrossOriginProtection().Handler(mux), nil
}

// open marks a route that needs no role.
const open httpserve.Role = ""

type route struct {
	pattern string
	role    httpserve.Role
	handler http.HandlerFunc
}

// routes is everything that can be called. A new route gets its line in
// docs/access.md, which a test compares with what the routes do.
func (s server) routes(landing http.Handler) []route {
	metrics := promhttp.HandlerFor(s.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return []route{
		{"GET /{$}", open, landing.ServeHTTP},
		{"GET /metrics", open, metrics.ServeHTTP},
		{"GET /-/healthy", open, s.healthy},
		{"GET /-/ready", open, s.ready},
		{"POST /v1/reports", open, s.report}, // asks for the node's own name instead of a role
		{"POST /v1/wake", httpserve.RoleWake, s.wake},
		{"GET /v1/nodes", httpserve.RoleRead, s.nodes},
		{"GET /v1/incidents", httpserve.RoleRead, s.incidents},
		{"GET /v1/incidents/{id}", httpserve.RoleRead, s.incident},
		{"GET /v1/holds", httpserve.RoleRead, s.holds},
		{"GET /v1/kill-switch", httpserve.RoleRead, s.killSwitch},
		{"PUT /v1/kill-switch", httpserve.RoleAdmin, s.setKillSwitch},
		{"DELETE /v1/kill-switch", httpserve.RoleAdmin, s.clearKillSwitch},
		{"POST /v1/incidents/{id}/approve", httpserve.RoleAdmin, s.approve},
	}
}

func (s server) healthy(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintln(w, "evenkeel-remediator is healthy.")
}

func (s server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "evenkeel-remediator is ready.")
}

// report takes a node's report: 204; 400 for what is not a report of this
// cluster; 401 and 403 for a caller that is not the node; 409 with the position
// held for one that is not newer; 413; 503 for one node too many.
func (s server) report(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, reason, message string) {
		s.Reports.Refused(reason)
		httpserve.Error(w, status, message)
	}
	names := httpserve.CallerNames(r)
	if len(names) == 0 && !s.Access.Insecure {
		refuse(http.StatusUnauthorized, ingest.ReasonIdentity, "a report needs a client certificate with the node's name")
		return
	}
	report, err := fault.DecodeReport(http.MaxBytesReader(w, r.Body, fault.MaxReportBytes))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		refuse(http.StatusRequestEntityTooLarge, ingest.ReasonTooLarge, fmt.Sprintf("report is larger than %d bytes", tooLarge.Limit))
		return
	}
	if err != nil {
		refuse(http.StatusBadRequest, ingest.ReasonMalformed, err.Error())
		return
	}
	if !s.Access.IsCaller(r, report.Node) {
		s.Logger.Warn("Report refused: the caller is not the node", "node", report.Node, "caller", strings.Join(names, ","))
		refuse(http.StatusForbidden, ingest.ReasonIdentity, fmt.Sprintf("%s may not report for %s", strings.Join(names, ", "), report.Node))
		return
	}
	err = s.Reports.Accept(report) // counts its own refusals
	stale, isStale := errors.AsType[*ingest.StaleError](err)
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case isStale:
		httpserve.JSON(w, http.StatusConflict, fault.StaleReport{Error: stale.Error(), Held: stale.Held})
	case errors.Is(err, ingest.ErrFull):
		httpserve.Error(w, http.StatusServiceUnavailable, err.Error())
	default:
		httpserve.Error(w, http.StatusBadRequest, err.Error())
	}
}

func (s server) nodes(w http.ResponseWriter, _ *http.Request) {
	httpserve.JSON(w, http.StatusOK, s.Nodes())
}

func (s server) incidents(w http.ResponseWriter, _ *http.Request) {
	incidents := s.Incidents.Incidents()
	if incidents == nil {
		incidents = []incident.Incident{}
	}
	httpserve.JSON(w, http.StatusOK, map[string][]incident.Incident{"incidents": incidents})
}

func (s server) incident(w http.ResponseWriter, r *http.Request) {
	i, ok := s.Incidents.Incident(r.PathValue("id"))
	if !ok {
		httpserve.Error(w, http.StatusNotFound, fmt.Sprintf("no incident %.64q", r.PathValue("id")))
		return
	}
	httpserve.JSON(w, http.StatusOK, i)
}

func (s server) holds(w http.ResponseWriter, _ *http.Request) {
	holds := s.Incidents.Holds()
	if holds == nil {
		holds = []incident.HoldView{}
	}
	httpserve.JSON(w, http.StatusOK, map[string][]incident.HoldView{"holds": holds})
}

// wake takes the webhook of Alertmanager or of anything else. What it says is
// not looked at: the sources are.
func (s server) wake(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxWakeBody)) // a body that breaks off wakes as well
	s.Wake()
	w.WriteHeader(http.StatusAccepted)
}

func (s server) killSwitch(w http.ResponseWriter, _ *http.Request) {
	httpserve.JSON(w, http.StatusOK, s.Controls.KillSwitch())
}

// setKillSwitch takes an optional body {"reason": "…"}: whoever needs it in a
// hurry sends none.
func (s server) setKillSwitch(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Reason string `json:"reason"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		httpserve.Error(w, http.StatusBadRequest, `want {"reason": "…"} or nothing: `+err.Error())
		return
	}
	if err := s.Controls.SetKillSwitch(r.Context(), caller(r), fault.Clip(body.Reason)); err != nil {
		s.fail(w, "The kill switch is on, but not in the journal", err)
		return
	}
	s.killSwitch(w, r)
}

func (s server) clearKillSwitch(w http.ResponseWriter, r *http.Request) {
	if err := s.Controls.ClearKillSwitch(r.Context(), caller(r)); err != nil {
		s.fail(w, "The kill switch stays on", err)
		return
	}
	s.killSwitch(w, r)
}

func (s server) approve(w http.ResponseWriter, r *http.Request) {
	err := s.Controls.Approve(r.Context(), r.PathValue("id"), caller(r))
	switch {
	case err == nil:
		s.incident(w, r)
	case errors.Is(err, incident.ErrNotFound):
		httpserve.Error(w, http.StatusNotFound, err.Error())
	case errors.Is(err, incident.ErrNotWaiting):
		httpserve.Error(w, http.StatusConflict, err.Error())
	default:
		s.fail(w, "The approval was not taken", err)
	}
}

func (s server) fail(w http.ResponseWriter, what string, err error) {
	s.Logger.Error(what, "err", err)
	httpserve.Error(w, http.StatusInternalServerError, what+": "+err.Error())
}

// caller is how a person is named in the journal.
func caller(r *http.Request) string {
	return cmp.Or(strings.Join(httpserve.CallerNames(r), ","), "anonymous (access.insecure)")
}
