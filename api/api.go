// Package api is the face of a node: events, streams, commands and read models over HTTP, with the OpenAPI document that
// describes them.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/penstock-io/penstock/commands"
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/egress"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
	"github.com/penstock-io/penstock/projections"
	"github.com/penstock-io/penstock/replays"
)

// Config is what the surface stands on.
type Config struct {
	Log      *eventstore.Log
	History  *eventstore.History
	Engine   *projections.Engine
	Outcomes *commands.Outcomes
	Types    domain.Types

	Version  string   // of this build
	Brokers  []string // for /v1/status
	Embedded bool     // the broker runs in this process
	// Ready returns the reasons why the node should not get requests yet, none when it may. Nil for always ready.
	Ready func() []string
	// Owned returns the partitions whose writer is this node, and whether it serves each of them already. Nil for none.
	Owned func() map[int32]bool
	// Replays has deliveries handled once more. Nil: this node can't, and doesn't show their requests either.
	Replays *replays.Replays
	// Feeds counts the open feeds. Nil for none.
	Feeds func() int
	// Subscriptions serves the feeds: pages that wait count among them, and operators see and end them. Nil for none.
	Subscriptions *egress.Feeds
	// Hooks is what takes webhooks in. Nil for nothing.
	Hooks *ingress.Handler
	// Reload reads the configuration file again and returns how many sources there are now, and which keys need a
	// restart. Nil without a file.
	Reload func() (sources int, restart []string, err error)
	// Spool says what waits on this node's disk. Nil for nothing.
	Spool  func() ingress.SpoolStatus
	Clock  func() time.Time // time.Now by default
	Logger *slog.Logger     // none by default
}

// MaxBody bounds a command's body in bytes.
const MaxBody = 64 << 10

// server answers the operations. It holds no data of its own.
type server struct {
	Config
	api     huma.API
	started time.Time
	copying chan struct{} // holds one while a backup is made and sent
	exports chan struct{} // holds one for each export that is sent
}

// Register checks cfg and adds every operation, the OpenAPI document and its page to mux. The caller may add further
// operations to the returned API's document until the first request.
//
// GET /v1/events and …/changes are feeds as well: whoever owns mux takes the requests that egress.Wants over before they
// get here.
func Register(mux *http.ServeMux, cfg Config) (huma.API, error) {
	var problems []error
	for _, need := range []struct {
		missing bool
		name    string
	}{
		{cfg.Log == nil, "Log"},
		{cfg.History == nil, "History"},
		{cfg.Engine == nil, "Engine"},
		{cfg.Outcomes == nil, "Outcomes"},
	} {
		if need.missing {
			problems = append(problems, errors.New("api needs "+need.name))
		}
	}
	if err := checkTypes(cfg.Types); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	useProblems()
	s := &server{Config: cfg, started: cfg.Clock(), copying: make(chan struct{}, 1), exports: make(chan struct{}, exportsAtOnce), api: huma.NewAPI(humaConfig(cfg.Version), adapter{mux})}
	s.registerEvents()
	s.registerStreams()
	if err := s.registerCommands(); err != nil {
		return nil, err
	}
	s.registerProjections()
	s.registerRebuilds()
	s.registerBackups()
	s.registerSubscriptions()
	s.registerDeliveries()
	s.registerSources()
	s.registerReplays()
	s.registerHandshakes()
	s.registerParked()
	s.registerNode()
	s.documentHooks()
	registerDocs(mux, s.api)
	return s.api, nil
}

func humaConfig(version string) huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Penstock", Version: version, Description: description,
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", schemaNames())},
			Tags: []*huma.Tag{
				{Name: "Events", Description: "What happened, in order"},
				{Name: "Streams", Description: "The history of one thing"},
				{Name: "Commands", Description: "What shall happen"},
				{Name: "Projections", Description: "Read models"},
				{Name: "Webhooks", Description: "What comes in, and what became of it"},
				{Name: "Parked", Description: "What could not be handled, until somebody decides"},
				{Name: "Node", Description: "How this node is doing"},
			},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json",
		// A misspelt filter would otherwise give an answer to another question.
		RejectUnknownQueryParameters: true,
	}
}

const description = `Webhooks and commands go in, events come out, in order and each exactly once.

Lists are ` + "`{\"items\": […], \"next\": \"‹cursor›\"}`" + `: ask again with ` + "`?cursor=‹next›`" + `. On /v1/events
` + "`next`" + ` is always there; elsewhere it is absent on the last page. Errors are problem documents (RFC 9457) with stable types. Times are RFC 3339 in UTC. Amounts are integers in the
currency's minor unit.

A position says how far into the log an answer is. Pass the position of a command's answer as ` + "`?after=`" + ` to read a projection that
has seen that command's events.

Keys in paths may contain slashes, as they are or as %2F. Other characters are percent-encoded as usual: # is %23, ? is %3F.`

// jsonFormat writes an answer in one piece. What can't be sent is dropped: the client has gone, and huma would panic.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		w.Write(append(b, '\n'))
		return nil
	},
	Unmarshal: json.Unmarshal,
}

// adapter puts operations on a ServeMux. OpenAPI has no path parameter that spans slashes, a ServeMux has: where an
// operation says so, its last parameter, {key}, becomes {key...}.
type adapter struct{ *http.ServeMux }

func (a adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	path := op.Path
	if op.Metadata[spansSlashes] == true {
		path = strings.TrimSuffix(path, "}") + "...}"
	}
	a.HandleFunc(op.Method+" "+path, func(w http.ResponseWriter, r *http.Request) {
		// Everything here changes; what has an ETag may be kept and asked about.
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		handler(humago.NewContext(op, r, w))
	})
}

const spansSlashes = "spans slashes"

// wide marks an operation whose last path parameter may contain slashes.
func wide() map[string]any { return map[string]any{spansSlashes: true} }

// add registers an operation whose errors are answered by the table in errors.go. What the answer doesn't tell of a
// failure on our side is logged here, once.
func add[I, O any](s *server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	defer func() {
		for _, status := range op.Errors {
			op.Responses[strconv.Itoa(status)].Description = refusals[status]
		}
	}()
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err == nil {
			return out, nil
		}
		p := ProblemOf(err)
		if p.Status >= http.StatusInternalServerError && p.cause != nil && ctx.Err() == nil {
			level := slog.LevelWarn
			if p.Status == http.StatusInternalServerError {
				level = slog.LevelError
			}
			s.Logger.Log(ctx, level, "request failed", "operation", op.OperationID, "status", p.Status, "error", err)
		}
		return nil, p
	})
}

// page is the shape of every list.
type page[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page; absent on the last one"`
}

// Paging asks for a part of a list. It is exported because huma looks into no embedded struct that isn't.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Most items to return"`
	Cursor string `query:"cursor" maxLength:"4096" doc:"next of the page before"`
}

// answered is a 200 with JSON that was written here, byte for byte. Which of the headers an operation sends it documents
// itself, through responds.
type answered struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	Status      int
	ETag        string `header:"ETag" hidden:"true"`
	Link        string `header:"Link" hidden:"true"`
	Position    string `header:"Penstock-Position" hidden:"true"`
	Applied     string `header:"Preference-Applied" hidden:"true"`
	Cache       string `header:"Cache-Control" hidden:"true"`
	Encoding    string `header:"Content-Encoding" hidden:"true"`
	Vary        string `header:"Vary" hidden:"true"`
	Body        []byte
}

var headers = map[string]string{
	"ETag":               "Tag of this answer, for If-None-Match",
	"Link":               "URL of the next page, rel=next",
	"Penstock-Position":  "How far into the log this answer is",
	"Preference-Applied": "The preference that was honoured",
}

// notModified turns an answer into a 304 if the client has it already. Without a tag of its own the answer is tagged by
// its bytes.
func (a *answered) notModified(ifNoneMatch string, scope uint64) *answered {
	if a.ETag == "" {
		a.ETag = bodyTag(scope, a.Body)
	}
	if matches(ifNoneMatch, a.ETag) {
		a.Status, a.Body, a.ContentType = http.StatusNotModified, nil, ""
	}
	return a
}

// jsonAnswer is v as an answer.
func jsonAnswer(v any) (*answered, error) {
	b, err := json.Marshal(v)
	return &answered{ContentType: "application/json", Status: http.StatusOK, Body: append(b, '\n')}, err
}

// responds documents a 200 of JSON with the given headers; with an ETag among them, also a 304.
func responds(schema *huma.Schema, sent ...string) map[string]*huma.Response {
	ok := &huma.Response{
		Description: http.StatusText(http.StatusOK), Headers: map[string]*huma.Param{},
		Content: map[string]*huma.MediaType{"application/json": {Schema: schema}},
	}
	all := map[string]*huma.Response{"200": ok}
	for _, name := range sent {
		ok.Headers[name] = &huma.Header{Description: headers[name], Schema: &huma.Schema{Type: huma.TypeString}}
		if name == "ETag" {
			all["304"] = &huma.Response{Description: "Not Modified: the ETag is still the one in If-None-Match"}
		}
	}
	return all
}

// refusals says in words what a documented status of a problem means, instead of the name that HTTP has for it.
var refusals = map[int]string{
	http.StatusBadRequest:     "/problems/bad-cursor: the cursor or position can't be read",
	http.StatusNotFound:       "/problems/not-found",
	http.StatusNotAcceptable:  "/problems/not-acceptable",
	http.StatusRequestTimeout: "/problems/request-timeout: the body took too long to arrive",
	http.StatusConflict: "/problems/reset: the cursor or position is of another log or generation. " +
		"/problems/future: it lies beyond the end of the log. " +
		"/problems/wrong-state: the projection is not in the state for that; rule says why",
	http.StatusGone:                  "/problems/expired: the log no longer reaches back to the cursor; earliest says where it begins",
	http.StatusPreconditionFailed:    "/problems/conflict: the stream is at another version than If-Match; actual says which",
	http.StatusRequestEntityTooLarge: "/problems/too-large",
	http.StatusTooManyRequests:       "/problems/too-many-connections and the like: try again after Retry-After",
	http.StatusUnsupportedMediaType:  "/problems/unsupported-media-type: the body is not JSON by its Content-Type",
	http.StatusUnprocessableEntity:   "/problems/invalid: field says which part of the input is wrong",
	http.StatusInternalServerError:   "/problems/internal, /problems/corrupt: a defect on this side; nothing can be done about it from there",
	http.StatusServiceUnavailable:    "/problems/unavailable: try again after Retry-After",
}

// refused lists the statuses of an operation's problems. Wrong input and our own defects are possible everywhere.
func refused(statuses ...int) []int {
	return slices.Concat(statuses, []int{http.StatusUnprocessableEntity, http.StatusInternalServerError})
}
