package remotewrite

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 5 * time.Second
	// maxRetryAfter bounds what a store may ask for: the spool's age limit is
	// minutes away.
	maxRetryAfter = 2 * time.Minute
	// stopGrace is how long a request in flight may take to be answered once the
	// daemon stops, so that its acknowledgement is not lost.
	stopGrace = 2 * time.Second
	// maxMessage bounds what of a store's answer is read and logged.
	maxMessage = 512
)

// sender sends what the spool hands out, one body at a time.
type sender struct {
	url       string
	userAgent string
	timeout   time.Duration
	client    *http.Client
	spool     *Spool
	metrics   *metrics
	complain  *complainer
	logger    *slog.Logger
}

// run sends until ctx ends.
func (s *sender) run(ctx context.Context) {
	var buf []byte
	for ctx.Err() == nil {
		record, ok := s.spool.Next(time.Now(), buf)
		if !ok {
			select {
			case <-ctx.Done():
			case <-s.spool.Ready():
			}
			continue
		}
		buf = record.Content
		if !s.deliver(ctx, record) {
			return // the record stays first in the spool
		}
	}
}

// deliver tries until the record is settled; false if ctx ended before.
func (s *sender) deliver(ctx context.Context, record Record) bool {
	backoff := minBackoff
	for failures := 0; ; failures++ {
		if s.spool.TooOld(record.Time, time.Now()) {
			s.spool.Settle(dropTooOld)
			return true
		}
		a := s.attempt(ctx, record.Content)
		switch a.verdict {
		case delivered:
			s.metrics.requests.WithLabelValues(outcomeDelivered).Inc()
			s.metrics.sentSamples.Add(float64(record.Samples))
			s.metrics.sentBytes.Add(float64(len(record.Content)))
			s.metrics.newestSent.Set(float64(record.Time) / 1000)
			s.spool.Settle("")
			if failures > 0 {
				s.logger.Info("Remote write goes on", "failures", failures)
			}
			return true
		case rejected:
			s.metrics.requests.WithLabelValues(outcomeRejected).Inc()
			s.complain.about("rejected "+strconv.Itoa(a.status), "Samples lost: the store refused them", "status", a.status, "message", a.message, "samples", record.Samples)
			s.spool.Settle(dropRejected)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.metrics.requests.WithLabelValues(outcomeRetried).Inc()
		s.complain.about("retried", "Remote write does not get through; trying again", "status", a.status, "message", a.message)
		// Half of the wait is random, so that a fleet that lost its store does not
		// come back in step.
		wait := max(backoff/2+rand.N(backoff/2), a.retryAfter)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

type verdict int

const (
	retry verdict = iota
	delivered
	rejected
)

// answer is what became of one request. Status is 0 where there was no answer.
type answer struct {
	verdict    verdict
	status     int
	message    string
	retryAfter time.Duration
}

func (s *sender) attempt(ctx context.Context, body []byte) answer {
	// The request outlives ctx by a little: an acknowledgement on its way is worth
	// waiting for.
	request, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-request.Done():
		case <-time.After(stopGrace):
			cancel()
		}
	})
	defer stop()

	req, err := http.NewRequestWithContext(request, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return answer{message: err.Error()}
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	req.Header.Set("User-Agent", s.userAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{message: clip(err.Error())}
	}
	defer resp.Body.Close()
	message, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage)) // only for the log
	return answer{
		verdict:    judge(resp.StatusCode),
		status:     resp.StatusCode,
		message:    clip(string(message)),
		retryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}
}

// judge says what a status means for the body that was sent. A refusal of the
// caller, not of the body (credentials that expired, a clock that is off), ends
// when an operator ends it, and costs no samples until they are too old: 401,
// 403, 407. A refusal of the moment ends by itself: 408, 425, 429, and 5xx. A
// redirect is a mistake in the configuration, which an operator can repair.
func judge(status int) verdict {
	switch {
	case status/100 == 2:
		return delivered
	case status/100 != 4:
		return retry
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return retry
	}
	return rejected
}

// parseRetryAfter reads the header in both its forms; 0 for none or nonsense.
func parseRetryAfter(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// clip makes a store's words fit for one line of log.
func clip(message string) string {
	message = strings.ToValidUTF8(message, "?")
	message, _, _ = strings.Cut(strings.TrimSpace(message), "\n")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return message
}
