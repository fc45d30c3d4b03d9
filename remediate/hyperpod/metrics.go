package hyperpod

import (
	"context"
	"errors"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The operations in use, by their names in the API.
const (
	opDescribeCluster = "DescribeCluster"
	opListNodes       = "ListClusterNodes"
	opDescribeNode    = "DescribeClusterNode"
	opBatchReplace    = "BatchReplaceClusterNodes"
	opBatchReboot     = "BatchRebootClusterNodes"
)

// The outcomes of a call. Reads end with ok, not_found or error; writes with
// ok, not_executed or ambiguous.
const (
	outcomeOK          = "ok"
	outcomeNotFound    = "not_found"
	outcomeError       = "error"
	outcomeNotExecuted = "not_executed"
	outcomeAmbiguous   = "ambiguous"
)

type metrics struct {
	calls     *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	throttles *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	m := &metrics{
		calls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remediator_hyperpod_calls_total",
			Help: "Calls to HyperPod by operation and outcome; a call that is retried counts once. Ambiguous calls may have taken effect.",
		}, []string{"operation", "outcome"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "evenkeel_remediator_hyperpod_call_duration_seconds",
			Help:    "Duration of calls to HyperPod that were sent, with their retries.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"operation"}),
		throttles: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_remediator_hyperpod_throttles_total",
			Help: "Requests that HyperPod refused for their rate, retried or not.",
		}, []string{"operation"}),
	}
	for _, operation := range []string{opDescribeCluster, opListNodes, opDescribeNode} {
		m.zero(operation, outcomeOK, outcomeNotFound, outcomeError)
	}
	for _, operation := range []string{opBatchReplace, opBatchReboot} {
		m.zero(operation, outcomeOK, outcomeNotExecuted, outcomeAmbiguous)
	}
	return m
}

// zero makes an operation's series exist before its first call.
func (m *metrics) zero(operation string, outcomes ...string) {
	for _, outcome := range outcomes {
		m.calls.WithLabelValues(operation, outcome)
	}
	m.seconds.WithLabelValues(operation)
	m.throttles.WithLabelValues(operation)
}

// began starts a call's stopwatch; the function given stops it.
func (m *metrics) began(operation string) func() {
	start := time.Now()
	return func() { m.seconds.WithLabelValues(operation).Observe(time.Since(start).Seconds()) }
}

func (m *metrics) ended(operation, outcome string) {
	m.calls.WithLabelValues(operation, outcome).Inc()
}

// read makes a read and counts it.
func read[T any](c *Client, operation string, call func() (T, error)) (T, error) {
	done := c.metrics.began(operation)
	answer, err := call()
	done()
	switch {
	case err == nil:
		c.metrics.ended(operation, outcomeOK)
	case errorCode(err) == "ResourceNotFound":
		c.metrics.ended(operation, outcomeNotFound)
	default:
		c.metrics.ended(operation, outcomeError)
		c.logger.Warn("HyperPod read went wrong", "operation", operation, "err", err)
	}
	return answer, err
}

// countThrottles adds a step inside the SDK's retry loop that sees every
// attempt.
func (m *metrics) countThrottles(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("EvenkeelCountThrottles",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleFinalize(ctx, in)
			if problem, ok := errors.AsType[smithy.APIError](err); ok && throttles[problem.ErrorCode()] {
				m.throttles.WithLabelValues(awsmiddleware.GetOperationName(ctx)).Inc()
			}
			return out, metadata, err
		}), "Retry", middleware.After)
}
