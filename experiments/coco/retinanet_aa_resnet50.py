from aa_flax.config import detection_recipes


def get_config():
    config = detection_recipes.coco_retinanet()
    config.label = "RetinaNet, AA-ResNet-50"
    config.model.name = "retinanet_aa_resnet50"
    return config
