"""User, session, tenant and component type on every span, those of other instrumentations included."""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span

from forge_otel.context import current_call, identity, inherited_component_type
from forge_otel.names import Attr
from forge_otel.telemetry.processor_hub import SingletonProcessor

__all__ = ["IdentityProcessor"]


class IdentityProcessor(SingletonProcessor):
    """Sets the identity attributes of a span when it starts."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Set the attributes that the current context has values for."""
        bound = identity.get()
        call = current_call.get()
        component_type = inherited_component_type.get() if call is None else call.request.component_type
        if component_type is None and not (bound.user_id or bound.session_id or bound.tenant):
            return
        known = {
            Attr.USER_ID: bound.user_id,
            Attr.SESSION_ID: bound.session_id,
            Attr.TENANT: bound.tenant,
            Attr.COMPONENT_TYPE: component_type,
        }
        attributes = {name: value for name, value in known.items() if value}
        span.set_attributes(attributes)
