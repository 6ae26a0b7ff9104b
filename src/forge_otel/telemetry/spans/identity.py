"""On whose behalf, on every span: also on the spans of other instrumentations, which know nothing of us."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span

from forge_otel.context import current_call, identity, inherited_component_type
from forge_otel.names import Attr
from forge_otel.telemetry.processor_hub import SingletonProcessor

__all__ = ["IdentityProcessor"]


class IdentityProcessor(SingletonProcessor):
    """Writes user, session, tenant and component type on each span as it starts."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write what the running context knows; nothing is written for what it does not know."""
        who = identity.get()
        call = current_call.get()
        component_type = inherited_component_type.get() if call is None else call.request.component_type
        if component_type is None and not (who.user_id or who.session_id or who.tenant):
            return
        known = {
            Attr.USER_ID: who.user_id,
            Attr.SESSION_ID: who.session_id,
            Attr.TENANT: who.tenant,
            Attr.COMPONENT_TYPE: component_type,
        }
        attributes = {name: value for name, value in known.items() if value}
        span.set_attributes(attributes)
