"""Whether the permissions of a key or a token cover an act."""

from momento_wire_types import permissionmessages_pb2 as permissions

CACHE_READERS = (permissions.CacheReadWrite, permissions.CacheReadOnly)
CACHE_WRITERS = (permissions.CacheReadWrite, permissions.CacheWriteOnly)
TOPIC_READERS = (permissions.TopicReadWrite, permissions.TopicReadOnly)
TOPIC_WRITERS = (permissions.TopicReadWrite, permissions.TopicWriteOnly)


def may_do_everything(allowed: permissions.Permissions | None) -> bool:
    """None is what the first key of an account has."""
    return allowed is None or allowed.WhichOneof("kind") == "super_user"


def may_use_items(allowed: permissions.Permissions | None, cache: str, keys: list[bytes], writes: bool) -> bool:
    """Whether every one of `keys` may be read or written."""
    if allowed is None or may_do_everything(allowed):
        return True
    roles = CACHE_WRITERS if writes else CACHE_READERS
    rules = [
        rule.cache_permissions
        for rule in allowed.explicit.permissions
        if rule.WhichOneof("kind") == "cache_permissions"
        and rule.cache_permissions.role in roles
        and _covers_cache(rule.cache_permissions, cache)
    ]
    return all(any(_covers_item(rule, key) for rule in rules) for key in keys)


def may_use_topic(allowed: permissions.Permissions | None, cache: str, topic: str, writes: bool) -> bool:
    if allowed is None or may_do_everything(allowed):
        return True
    roles = TOPIC_WRITERS if writes else TOPIC_READERS
    return any(
        rule.topic_permissions.role in roles
        and _covers_cache(rule.topic_permissions, cache)
        and _covers_topic(rule.topic_permissions, topic)
        for rule in allowed.explicit.permissions
        if rule.WhichOneof("kind") == "topic_permissions"
    )


def _covers_cache(
    rule: permissions.PermissionsType.CachePermissions | permissions.PermissionsType.TopicPermissions, cache: str
) -> bool:
    return rule.WhichOneof("cache") == "all_caches" or rule.cache_selector.cache_name == cache


def _covers_item(rule: permissions.PermissionsType.CachePermissions, key: bytes) -> bool:
    if rule.WhichOneof("cache_item") != "item_selector":
        return True
    selector = rule.item_selector
    if selector.WhichOneof("kind") == "key":
        return selector.key == key
    return key.startswith(selector.key_prefix)


def _covers_topic(rule: permissions.PermissionsType.TopicPermissions, topic: str) -> bool:
    if rule.WhichOneof("topic") == "all_topics":
        return True
    selector = rule.topic_selector
    if selector.WhichOneof("kind") == "topic_name":
        return selector.topic_name == topic
    return topic.startswith(selector.topic_name_prefix)
