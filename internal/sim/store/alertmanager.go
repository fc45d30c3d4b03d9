package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/api"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
)

// alertmanagerConfig routes every alert to a receiver that notifies nobody.
const alertmanagerConfig = `
route:
  receiver: nobody
receivers:
  - name: nobody
`

const (
	// resolvedGC is how often resolved alerts are forgotten; the API hides them
	// at once.
	resolvedGC = time.Minute
	// silenceRetention is how long an expired silence stays visible.
	silenceRetention = 120 * time.Hour
)

var errNoGroups = errors.New("this Alertmanager notifies nobody and forms no alert groups")

// alertmanager is Alertmanager without notifications: its alerts, its silences
// and its API.
type alertmanager struct {
	alerts  *mem.Alerts
	handler http.Handler
}

func newAlertmanager(logger *slog.Logger) (*alertmanager, error) {
	registry := prometheus.NewRegistry() // of its own: names meet Prometheus's
	recorder := eventrecorder.NopRecorder()
	silences, err := silence.New(silence.Options{Retention: silenceRetention, Logger: logger, Metrics: registry, EventRecorder: recorder})
	if err != nil {
		return nil, fmt.Errorf("open silences: %w", err)
	}
	silencer := silence.NewSilencer(silences, logger, recorder)
	alerts, err := mem.NewAlerts(context.Background(), resolvedGC, 0, silencer, logger, recorder, registry, featurecontrol.NoopFlags{})
	if err != nil {
		return nil, fmt.Errorf("open alerts: %w", err)
	}
	v2, err := api.New(api.Options{
		Alerts:          alerts,
		Silences:        silences,
		Logger:          logger,
		Registry:        registry,
		RequestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "alertmanager_http_request_duration_seconds"}, []string{"handler", "method"}),
		GroupMutedFunc:  func(_, _ string) ([]string, bool) { return nil, false },
		GroupFunc: func(context.Context, func(*dispatch.Route) bool, func(*alert.Alert, time.Time) bool) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
			return nil, nil, errNoGroups
		},
	})
	if err != nil {
		alerts.Close()
		return nil, fmt.Errorf("build API: %w", err)
	}
	configuration, err := config.Load(alertmanagerConfig)
	if err != nil {
		alerts.Close()
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	v2.Update(configuration, func(ctx context.Context, labels model.LabelSet) { silencer.Mutes(ctx, labels) })
	return &alertmanager{alerts: alerts, handler: v2.Register(route.New(), "")}, nil
}

// put takes alerts as POST /api/v2/alerts would.
func (a *alertmanager) put(ctx context.Context, alerts []model.Alert) error {
	now := time.Now()
	taken := make([]*alert.Alert, 0, len(alerts))
	for _, m := range alerts {
		taken = append(taken, &alert.Alert{Alert: m, UpdatedAt: now})
	}
	return a.alerts.Put(ctx, taken...)
}

func (a *alertmanager) close() { a.alerts.Close() }
