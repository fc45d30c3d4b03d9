package remotewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/internal/httpclient"
)

// Options says what a [Writer] needs beside its configuration.
type Options struct {
	Config Config
	// Dir is the spool's folder where Config.Spool.Path is empty.
	Dir string
	// External labels are added to each series that lacks them.
	External map[string]string
	// UserAgent identifies the daemon, "evenkeel-agent/1.2.3".
	UserAgent  string
	Registerer prometheus.Registerer // nil discards
	Logger     *slog.Logger
}

// maxQueued is how many gatherings may wait for a disk that is slow to take them.
const maxQueued = 4

type gathering struct {
	families []*dto.MetricFamily
	at       time.Time
}

// Writer takes gathered samples and delivers them.
type Writer struct {
	queue   chan gathering
	encoder *Encoder
	spool   *Spool
	sender  sender
	metrics *metrics
	logger  *slog.Logger
}

// New opens the spool. Nothing is sent before [Writer.Run], and nothing is read
// of credentials or certificates before the first request. Config.URL is set.
func New(o Options) (*Writer, error) {
	dir := o.Config.Spool.Path
	if dir == "" {
		dir = o.Dir
	}
	if dir == "" {
		return nil, errors.New("remote_write.spool.path: must be set")
	}
	m := newMetrics(o.Registerer)
	spool, err := OpenSpool(dir, o.Config.Spool, m, o.Logger)
	if err != nil {
		return nil, err
	}
	registerSpool(o.Registerer, spool)
	return &Writer{
		queue:   make(chan gathering, maxQueued),
		encoder: NewEncoder(o.External),
		spool:   spool,
		metrics: m,
		logger:  o.Logger,
		sender: sender{
			url:       o.Config.URL,
			userAgent: o.UserAgent,
			timeout:   o.Config.Timeout,
			client:    newClient(o.Config),
			spool:     spool,
			metrics:   m,
			complain:  newComplainer(o.Logger),
			logger:    o.Logger,
		},
	}, nil
}

func newClient(c Config) *http.Client {
	if c.SigV4 == nil {
		return httpclient.New("remote_write", c.TLS)
	}
	// Signing fetches credentials when it is set up, which can take seconds and
	// fail at boot: it is set up by the first request, and a failure is that
	// request's.
	return httpclient.New("remote_write", c.TLS, func(ctx context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		rt, err := sigv4.NewSigV4RoundTripper(c.SigV4, next, sigv4.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("set up SigV4: %w", err)
		}
		return rt, nil
	})
}

// Write hands over one gathering, which must not be changed afterwards. It waits
// for nothing: when the disk has been too slow for the last few gatherings, this
// one is dropped and counted.
func (w *Writer) Write(families []*dto.MetricFamily, at time.Time) {
	select {
	case w.queue <- gathering{families, at}:
	default:
		w.metrics.drop(dropDisk, countSamples(families))
	}
}

// spoolGatherings encodes what was handed over and puts it into the spool.
func (w *Writer) spoolGatherings(ctx context.Context) {
	for {
		select {
		case g := <-w.queue:
			w.spoolGathering(g)
		case <-ctx.Done():
			for { // what was handed over before the end is kept
				select {
				case g := <-w.queue:
					w.spoolGathering(g)
				default:
					return
				}
			}
		}
	}
}

func (w *Writer) spoolGathering(g gathering) {
	tooLarge := w.encoder.Encode(g.families, g.at, func(body Body) { w.spool.Append(body, g.at) })
	if tooLarge > 0 {
		w.metrics.drop(dropTooLarge, tooLarge)
	}
	w.spool.Sync()
}

// Push writes a gathering every interval until ctx ends, for daemons that have
// no snapshot of their own.
func (w *Writer) Push(ctx context.Context, gatherer prometheus.Gatherer, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		families, err := gatherer.Gather()
		if err != nil {
			// What was gathered is written; what was not goes stale, which is what
			// unknown looks like in a store.
			w.logger.Error("Some metrics could not be gathered", "err", err)
		}
		w.Write(families, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Run spools and sends until ctx ends. What is unsent then stays in the spool for
// the next start.
func (w *Writer) Run(ctx context.Context) {
	var spooling sync.WaitGroup
	spooling.Go(func() { w.spoolGatherings(ctx) })
	w.sender.run(ctx)
	spooling.Wait()
}

// Close lets go of the spool; no other method may run or follow.
func (w *Writer) Close() error {
	if err := w.spool.Close(); err != nil {
		return fmt.Errorf("close spool: %w", err)
	}
	return nil
}
