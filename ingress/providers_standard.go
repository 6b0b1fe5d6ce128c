package ingress

import "time"

// standardRows are the providers that follow Standard Webhooks 1.0.0, or Svix, from which it came:
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
var standardRows = []Provider{
	standard("standard", "Standard Webhooks", VendorPage, "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md", "webhook", "invoice.paid"),
	standard("svix", "Svix", VendorPage, "https://docs.svix.com/receiving/verifying-payloads/how-manual", "svix", "invoice.paid"),
	standard("clerk", "Clerk", VendorPage, "https://clerk.com/docs/guides/development/webhooks/overview", "svix", "user.created"),
	standard("resend", "Resend", ThirdParty, "https://resend.com/docs/dashboard/webhooks/verify-webhooks-requests", "svix", "email.delivered"),
	standard("stytch", "Stytch", ThirdParty, "https://stytch.com/docs/guides/webhooks", "svix", "direct.user.create"),
	standard("vanta", "Vanta", ThirdParty, "https://developer.vanta.com/docs/webhooks-overview", "svix", "test.failed"),
	standard("gitlab-signed", "GitLab, signing token", VendorPage, "https://docs.gitlab.com/user/project/integrations/webhooks/", "webhook", "Push Hook"),
	standard("supabase", "Supabase", ThirdParty, "https://supabase.com/docs/guides/auth/auth-hooks", "webhook", "user.created"),
	standard("render", "Render", ThirdParty, "https://render.com/docs/webhooks", "webhook", "deploy_ended"),
	standard("brex", "Brex", ThirdParty, "https://developer.brex.com/docs/webhooks/", "webhook", "TRANSFER_PROCESSED"),
	standard("openai", "OpenAI", ThirdParty, "https://platform.openai.com/docs/guides/webhooks", "webhook", "response.completed"),
	standard("replicate", "Replicate", ThirdParty, "https://replicate.com/docs/topics/webhooks/verify-webhook", "webhook", "succeeded"),
	standard("gemini", "Gemini API", ThirdParty, "https://ai.google.dev/gemini-api/docs/webhooks", "webhook", "batch.succeeded"),
	standard("incidentio", "incident.io", ThirdParty, "https://api-docs.incident.io/tag/Webhooks/", "webhook", "public_incident.incident_created_v2"),
	standard("etsy", "Etsy", ThirdParty, "https://developers.etsy.com/documentation/essentials/webhooks", "webhook", "order.paid"),
	standard("loops", "Loops", ThirdParty, "https://loops.so/docs/webhooks", "webhook", "contact.created"),
	standard("increase", "Increase", ThirdParty, "https://increase.com/documentation/webhooks", "webhook", "account.created"),
	standard("polar", "Polar", ThirdParty, "https://polar.sh/docs/integrate/webhooks/delivery", "webhook", "order.created"),
	finch,
}

// standard is the row of a provider that has the id, the time and the signatures in three headers of one prefix. A
// secret that begins with whpk_ is an Ed25519 public key; any other one is shared.
func standard(name, title string, confidence Confidence, docs, prefix, sample string) Provider {
	header := map[string][3]string{
		"webhook": {"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
		"svix":    {"Svix-Id", "Svix-Timestamp", "Svix-Signature"},
	}[prefix]
	p := Provider{
		Name: name, Title: title, Confidence: confidence, Docs: docs, Secret: "the signing secret, whsec_…",
		Scheme:       standardScheme(header[0], header[1], header[2]),
		Verification: name + "; id+timestamp+body",
		Type:         []Field{InBody("type")}, ID: []Field{InHeader(header[0])}, Subject: []Field{InBody("data.id")}, Sample: sample,
	}
	switch name {
	case "standard":
		p.Secret = "the signing secret, whsec_…, or the public key, whpk_…"
	case "svix": // both sets of headers are sent, or those without a name in them
		unbranded := standardScheme("Webhook-Id", "Webhook-Timestamp", "Webhook-Signature")
		p.Scheme.Also = append(p.Scheme.Also, append([]Scheme{unbranded}, unbranded.Also...)...)
		p.Scheme.Also[1].Also = nil
		p.ID = append(p.ID, InHeader("Webhook-Id"))
	case "gitlab-signed":
		p.Type = []Field{InHeader("X-Gitlab-Event"), InBody("object_kind")}
		p.Subject = []Field{InBody("project.path_with_namespace"), InBody("project.id"), InBody("group_id")}
		p.Keep = []string{"x-gitlab-event", "x-gitlab-instance", "x-gitlab-webhook-uuid", "x-gitlab-event-uuid", "idempotency-key"}
		p.Secret = "the signing token, whsec_…; since GitLab 19.0"
		p.MaxBody, p.Budget = 25<<20, 10*time.Second
		p.Retry = "none; a webhook that fails 4 times in a row rests, ever longer"
	case "supabase":
		p.Secret = "the hook's secret; of v1,whsec_… what follows the comma"
		p.Type = append(p.Type, InBody("user.email_data.email_action_type"), InBody("email_data.email_action_type"), Fixed("hook"))
		p.Subject = append(p.Subject, InBody("user.id"))
	case "etsy":
		p.Type = []Field{InBody("event_type"), InBody("type")}
	case "stytch":
		p.Type = []Field{Joined(".", InBody("source"), InBody("object_type"), InBody("action")), InBody("type")}
		p.Subject = []Field{InBody("id")}
	case "incidentio":
		p.Type = []Field{InBody("event_type")}
	case "brex":
		p.Type = []Field{InBody("event_type"), InBody("type")}
		p.Subject = []Field{InBody("transfer_id"), InBody("company_id"), InBody("id")}
	case "loops":
		p.Type = []Field{InBody("eventName"), InBody("type")}
		p.Subject = []Field{InBody("contactIdentity.id")}
	case "increase":
		p.Type = []Field{InBody("category"), InBody("type")}
		p.Subject = []Field{InBody("associated_object_id")}
	case "replicate":
		p.Type, p.Subject = []Field{InBody("status")}, []Field{InBody("id")}
	case "polar":
		p.Scheme.Key, p.Scheme.Also = Verbatim, nil // its libraries take the whole text, polar_whs_ and all
		p.Secret = "the endpoint's secret, as it is"
	}
	return p
}

func standardScheme(id, stamp, signature string) Scheme {
	s := Scheme{
		Header: signature, Layout: Tagged, Label: "v1", Encoding: Base64, Key: WhsecKeys,
		Message:    []Part{HeaderText(id), Literal("."), Timestamp(), Literal("."), Body()},
		TimeHeader: stamp, Tolerance: 5 * time.Minute,
	}
	asymmetric := s
	asymmetric.Algorithm, asymmetric.Label, asymmetric.Key = Ed25519, "v1a", WhpkKeys
	s.Also = []Scheme{asymmetric}
	return s
}

// finch has the shape of Standard Webhooks under names of its own.
var finch = Provider{
	Name: "finch", Title: "Finch", Confidence: ThirdParty, Secret: "the webhook's secret",
	Docs: "https://developer.tryfinch.com/developer-resources/Webhooks",
	Scheme: Scheme{
		Header: "Finch-Signature", Layout: Tagged, Label: "v1", Encoding: Base64, Key: Base64Keys,
		Message:    []Part{HeaderText("Finch-Event-Id"), Literal("."), Timestamp(), Literal("."), Body()},
		TimeHeader: "Finch-Timestamp", Tolerance: 5 * time.Minute,
	},
	Type: []Field{InBody("event_type")}, ID: []Field{InHeader("Finch-Event-Id")}, Subject: []Field{InBody("company_id"), InBody("connection_id")},
	Sample: "job.benefit_register.completed",
}
