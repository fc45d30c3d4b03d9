// Package store asks a Prometheus-compatible store for the numbers of a few
// devices and for the processes on them.
//
// Each query names its devices, and its answer carries the samples' own times:
// an instant query would return a value that is minutes old under the time of
// the question. What is older than the freshness was not measured. The package
// refuses to ask for everything.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/evenkeel/evenkeel/collector/correlate"
	"github.com/evenkeel/evenkeel/internal/fault"
)

// devicesPerQuery bounds a query's length and its answer.
const devicesPerQuery = 32

// Names that the agent exports its readings under: dcgm-exporter's.
const (
	smClock      = "DCGM_FI_DEV_SM_CLOCK"
	maxSMClock   = "DCGM_FI_DEV_MAX_SM_CLOCK"
	temperature  = "DCGM_FI_DEV_GPU_TEMP"
	doubleBitECC = "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"
	processInfo  = "evenkeel_process_info"
)

// Client reads one store.
type Client struct {
	api       v1.API
	cluster   string
	freshness time.Duration
}

// New makes a client for the store at a base URL, such as that of a Prometheus
// or of a Managed Prometheus workspace.
func New(url, cluster string, freshness time.Duration, client *http.Client) (*Client, error) {
	c, err := api.NewClient(api.Config{Address: url, Client: client})
	if err != nil {
		return nil, fmt.Errorf("set up store client: %w", err)
	}
	return &Client{api: v1.NewAPI(c), cluster: cluster, freshness: freshness}, nil
}

// Devices gives the current numbers of devices by UUID. A device that the store
// has nothing current of is not in the answer.
func (c *Client) Devices(ctx context.Context, uuids []string, now time.Time) (map[string]correlate.Device, error) {
	devices := make(map[string]correlate.Device)
	err := c.each(ctx, []string{smClock, maxSMClock, temperature, doubleBitECC}, uuids, now, func(metric model.Metric, sample model.SamplePair) {
		value := float64(sample.Value)
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return
		}
		uuid := string(metric["UUID"])
		d := devices[uuid]
		switch metric[model.MetricNameLabel] {
		case smClock:
			d.SMClock = &value
		case maxSMClock:
			d.MaxSMClock = &value
		case temperature:
			d.TemperatureCelsius = &value
		case doubleBitECC:
			d.DoubleBitECC = &value
		}
		if pci, ok := fault.NormalizePCI(string(metric["pci_bus_id"])); ok {
			d.PCI = pci
		}
		devices[uuid] = d
	})
	return devices, err
}

// Processes gives what the agents export about the processes on devices. Of a
// device that was handed from one process to another only the newest counts.
func (c *Client) Processes(ctx context.Context, uuids []string, now time.Time) ([]correlate.Sighting, error) {
	type process struct {
		at       time.Time
		sighting correlate.Sighting
	}
	newest := make(map[string]time.Time)
	var seen []process
	err := c.each(ctx, []string{processInfo}, uuids, now, func(metric model.Metric, sample model.SamplePair) {
		rank, err := strconv.Atoi(string(metric["rank"]))
		if err != nil {
			return // a process that does not say its rank
		}
		place := correlate.Place{Job: string(metric["job"]), Rank: rank, Node: string(metric["node"]), DeviceUUID: string(metric["UUID"])}
		at := sample.Timestamp.Time()
		if at.After(newest[place.DeviceUUID]) {
			newest[place.DeviceUUID] = at
		}
		seen = append(seen, process{at, correlate.Sighting{Source: "metric store", Place: place}})
	})
	var current []correlate.Sighting
	for _, p := range seen {
		if p.at.Equal(newest[p.sighting.Place.DeviceUUID]) {
			current = append(current, p.sighting)
		}
	}
	return current, err
}

// each calls take with the newest fresh sample of each series of the devices.
func (c *Client) each(ctx context.Context, names, uuids []string, now time.Time, take func(model.Metric, model.SamplePair)) error {
	for some := range slices.Chunk(uuids, devicesPerQuery) {
		value, _, _, err := c.api.Query(ctx, c.selector(names, some), now)
		if err != nil {
			return fmt.Errorf("query store: %w", err)
		}
		matrix, ok := value.(model.Matrix)
		if !ok {
			return errors.New("query store: the answer to a range selector is no matrix")
		}
		for _, series := range matrix {
			if n := len(series.Values); n > 0 && now.Sub(series.Values[n-1].Timestamp.Time()) <= c.freshness {
				take(series.Metric, series.Values[n-1])
			}
		}
	}
	return nil
}

// selector asks for the raw samples of the last freshness.
func (c *Client) selector(names, uuids []string) string {
	return fmt.Sprintf("{__name__=~%s,cluster=%s,UUID=~%s}[%dms]",
		strconv.Quote(strings.Join(names, "|")), strconv.Quote(c.cluster), strconv.Quote(alternatives(uuids)), c.freshness.Milliseconds())
}

func alternatives(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = regexp.QuoteMeta(v)
	}
	return strings.Join(quoted, "|")
}

// maxAnswerBytes bounds one answer. A query names at most devicesPerQuery
// devices, a few series each.
const maxAnswerBytes = 8 << 20

// Bound keeps a store from answering without end: what follows the bound is
// cut, and the truncated answer is an error.
func Bound(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
	return bounded{next}, nil
}

type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err == nil {
		body := response.Body
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(body, maxAnswerBytes), body}
	}
	return response, err
}
